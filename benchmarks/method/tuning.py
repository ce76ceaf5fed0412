"""Settings of a rival, tried on prompts that no table is about: python -m benchmarks.method.tuning ARM [TRY ...]

A try is name=value,name=value: an arm with some of its settings changed, trained on a concept's pictures and asked for
other prompts than the bench's own, so that what is chosen by them is not chosen on the test. It prints the curves and
keeps every try, so that the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.method.arms import ARMS, Arm
from benchmarks.method.concepts import CONCEPTS, BenchConcept
from library.environment import prepare_process
from library.errors import ConfigError, did_you_mean, exit_code_of
from library.files.atomic import write_text

WORK = Path("output/tuning")


def validation_concept(name: str) -> BenchConcept:
    """The concept with other prompts: they follow from its name, which is another."""
    concept = CONCEPTS[name]()
    return replace(concept, name=f"{concept.name}-validation")


def parsed(text: str) -> dict[str, Any]:
    """Settings written as name=value,name=value; values as in JSON, or words."""
    given = {}
    for pair in filter(None, text.split(",")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f'"{pair}" is no setting.', "Write name=value, and a comma between two.")
        try:
            given[name] = json.loads(value)
        except json.JSONDecodeError:
            given[name] = value
    return given


def curves(work: Path, model: str, arm: str, tries: Sequence[str], concept: str, steps: tuple[int, ...]) -> list[str]:
    """Trains and scores every try that is not kept yet; prints and returns a line for each."""
    import torch

    from benchmarks.method.compare import Comparison
    from benchmarks.method.trial import Bench, Trial

    made = validation_concept(concept)
    CONCEPTS[made.name] = lambda: made
    bench, lines = Bench(work, model), []
    control = Trial("pretrained", made.name, 0)
    if not control.file(work).exists():
        for result in bench.controls(made):
            write_text(Trial(result["arm"], made.name, 0).file(work), json.dumps(result))
    controls = [json.loads(Trial(n, made.name, 0).file(work).read_text()) for n in ("pretrained", "drawn")]
    for text in tries:
        base, name = ARMS[arm], f"{arm} {text}".strip()
        ARMS[name] = Arm({**base.settings, **parsed(text)}, base.about, base.extractor, checkpoints=steps)
        trial = Trial(name, made.name, 0)
        if not trial.file(work).exists():
            with torch.random.fork_rng():
                write_text(trial.file(work), json.dumps(bench.run(trial)))
        comparison = Comparison([*controls, json.loads(trial.file(work).read_text())])
        counts, values = comparison.curve(name)
        points = zip(counts, values["fidelity"], values["drift"], values["contamination"], strict=True)
        line = " ".join(f"{int(n)}:{f:.2f}/{d:.2f}/{c:.2f}" for n, f, d, c in points if n)
        lines.append(f"{name:60} {line}")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Does what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.method.tuning", description=__doc__.split("\n")[0])
    parser.add_argument("arm", help="Of the bench.")
    parser.add_argument("tries", nargs="*", default=[""], help="Settings, name=value,name=value; none: its own.")
    parser.add_argument("--concept", default="mask", help=f"Of {', '.join(CONCEPTS)}.")
    parser.add_argument("--steps", nargs="*", type=int, default=[20, 40, 80, 160], help="Scored after these.")
    parser.add_argument("--work", type=Path, default=WORK, help="Where tries are kept.")
    parser.add_argument("--model", default="pocket/model", help="The pocket SD3's folder.")
    arguments = parser.parse_args()
    if arguments.arm not in ARMS:
        raise ConfigError(f'There is no method "{arguments.arm}".', did_you_mean(arguments.arm, ARMS))
    print("steps: fidelity / velocity drift / contamination of the class")
    curves(arguments.work, arguments.model, arguments.arm, arguments.tries, arguments.concept, tuple(arguments.steps))


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
