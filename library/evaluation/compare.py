"""The command `compare`: methods on the user's own pictures, with the same budget and equal tuning for each.

Every method is trained at the same learning rates and saved at the same shares of the same number of steps. Which rate
and which length each one gets is chosen on one half of the prompts, by one rule, and judged on the other half.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.atomic import write_text
from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import (
    TomlFile,
    add_settings_to,
    as_tables,
    command_line_parser,
    config_file_of,
    read_settings,
    settings_given,
)
from library.config.methods import RULES
from library.config.settings import Settings
from library.dual_branch_scheduler import PRETRAINED_BRANCH
from library.errors import ConfigError, did_you_mean
from library.evaluation.audit import Auditor, draw, reference_pictures, references_of
from library.evaluation.card import Card
from library.evaluation.compare_files import Result, write_comparison
from library.evaluation.drift import Probe
from library.evaluation.probes import read_probes
from library.evaluation.student import Students, concept_file_for, loras_in, read_layers
from library.fingerprint import of_key
from library.objectives import EXTRACTOR
from library.prompts import NULL_PROMPT
from library.report.progress import bar_over, say
from library.training.parts import Parts, build_parts
from library.training.plan import make_plan
from library.training.run import Run

DONE = "arm.json"
RULE = "the largest right change on the reference pictures less the mean drift without [V]"
"""What chooses rate and length, on prompts that the table does not show."""


@dataclass(frozen=True)
class Arm:
    """A method at one learning rate, `rate` times that of the config."""

    method: str
    rate: float

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.method}-{self.rate:g}"


def run(words: list[str]) -> str:
    """Trains what is not trained yet, scores all of it; returns what there is to say."""
    parser = command_line_parser("Compares methods on your pictures: same budget, equal tuning.")
    parser.add_argument("--methods", default="lora,dop,purecc", help="Separated by commas. Default: lora,dop,purecc.")
    parser.add_argument("--budget", type=int, metavar="STEPS", help="Of both stages together. Default: the config's.")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="Times the learning rates.")
    parser.add_argument("--checkpoints", type=int, default=4, help="Lengths that are scored. Default: 4.")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5, 0.75, 1.0, 1.25], help="Of the LoRA.")
    parser.add_argument("--out", metavar="DIR", help="Where all of it goes. Default: OUTPUT_DIR/compare.")
    add_settings_to(parser)
    given = parser.parse_args(words)
    methods, file = _methods(given.methods), config_file_of(given)
    settings = read_settings(file, settings_given(given))
    _check(given, settings)
    budget = given.budget or settings.optimizer.max_train_steps + settings.optimizer.extractor_train_steps
    folder = Path(given.out).expanduser() if given.out else settings.output_dir / "compare"
    arms = [Arm(method, rate) for method in methods for rate in dict.fromkeys(given.rates)]
    seconds = {arm: _train(arm, file, given, budget, folder) for arm in arms}
    results = _scored(arms, seconds, file, settings, given, folder)
    return write_comparison(folder, results, {"budget_steps": budget, "rates": given.rates, "rule": RULE})


def _methods(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in RULES:
            raise ConfigError(f'--methods: there is no method "{name}".', did_you_mean(name, RULES))
    if not names:
        raise ConfigError("--methods names none.", f"There are: {', '.join(RULES)}.")
    return names


def _check(given: Namespace, settings: Settings) -> None:
    numbers = {"--rates": given.rates, "--strengths": given.strengths}
    wrong = next((name for name, some in numbers.items() if not all(0 < one < 100 for one in some)), None)
    if wrong:
        raise ConfigError(f"{wrong}: {numbers[wrong]} must be above 0 and below 100.")
    if given.checkpoints < 1 or (given.budget is not None and given.budget < 2 * given.checkpoints):
        raise ConfigError("--budget must be at least twice --checkpoints, and those at least 1.")
    if settings.optimizer.max_train_epochs is not None:
        raise ConfigError("compare counts in steps, but max_train_epochs is set.", "Take it out, and give --budget.")


def settings_of(arm: Arm, file: TomlFile | None, given: Namespace, budget: int, folder: Path) -> Settings:
    """The settings that an arm is trained with: the config's, but for method, rates and length."""
    values = settings_given(given)
    base = read_settings(file, {**values, "method": arm.method}, [])
    both = base.optimizer.max_train_steps + base.optimizer.extractor_train_steps
    trains = bool(base.needs_extractor and not base.pure_learning.merged and not base.pure_learning.extractor)
    first = round(budget * base.optimizer.extractor_train_steps / both) if trains and both else 0
    last = budget - first
    changed = {
        "method": arm.method,
        "learning_rate": base.optimizer.learning_rate * arm.rate,
        "max_train_steps": last,
        "save_every_n_steps": max(1, -(-last // given.checkpoints)),
        "output_dir": str(folder / arm.name),
        "output_name": arm.name,
        "save_formats": ["kohya"],
        "log_with": "none",
        "resume": "auto",
        "audit": False,
    }
    if trains:
        changed[f"{EXTRACTOR}_train_steps"] = first
    if base.concept_embeddings.concept_embeddings != "none":
        changed["embedding_lr"] = base.optimizer.embedding_lr * arm.rate
    return read_settings(file, {**values, **changed}, [])


def _train(arm: Arm, file: TomlFile | None, given: Namespace, budget: int, folder: Path) -> float:
    """Trains an arm unless it is done; returns the seconds that it took."""
    settings = settings_of(arm, file, given, budget, folder)
    config = read_concepts_and_pictures(file, settings)
    key, done = of_key(as_tables(settings, shaping_only=True)), folder / arm.name / DONE
    if done.is_file():
        before = json.loads(done.read_text(encoding="utf-8"))
        if before["settings"] != key:
            raise ConfigError(f"{done.parent} was trained with other settings.", "Give another --out, or remove it.")
        return float(before["seconds"])
    say(f"{arm.method} at {arm.rate:g} times the learning rate")
    begin = time.monotonic()
    Run(make_plan(settings, config)).train()
    seconds = time.monotonic() - begin
    write_text(done, json.dumps({"settings": key, "seconds": seconds}))
    return seconds


def _scored(
    arms: Sequence[Arm],
    seconds: dict[Arm, float],
    file: TomlFile | None,
    settings: Settings,
    given: Namespace,
    folder: Path,
) -> list[Result]:
    config = read_concepts_and_pictures(file, settings)
    parts, concept = build_parts(settings, config.concepts), config.concepts[0]
    first = settings.optimizer.seed
    choosing, judging = halves(read_probes(settings.samples.audit_prompts, concept, [first, first + 1]))
    shown = [one for some in reference_pictures(config, parts, settings) for one in some]
    texts = [text for probe in (*choosing, *judging) for text in probe.texts]
    texts += [text for one in shown for text in (one.prompts[0].complete, one.prompts[0].base)]
    parts.texts.prepare([NULL_PROMPT, *texts], bar_over("text"))
    references = references_of(parts, shown)
    files = {arm: loras_in([str(folder / arm.name)]) for arm in arms}
    blocks = parts.model.transformer_config["num_layers"]
    students = Students(parts, {path: read_layers(path, blocks) for some in files.values() for path in some})
    size = config.datasets[0].resolution

    def auditor(probes: Sequence[Probe]) -> Auditor:
        return Auditor(parts, probes, _drawn(parts, probes, size), references)

    on_validation, on_test, results = auditor(choosing), auditor(judging), []
    for method in dict.fromkeys(arm.method for arm in arms):
        mine = [(arm, path) for arm in arms if arm.method == method for path in files[arm]]
        tried = [_card(on_validation, students, path, 1.0) for _, path in mine]
        best = max(range(len(mine)), key=lambda k: tried[k].reach - tried[k].kept)
        arm, path = mine[best]
        of_strength = {s: _card(on_test, students, path, s) for s in sorted({1.0, *given.strengths})}
        length = [tried[k] for k in range(len(mine)) if mine[k][0] == arm]
        branch = students.branch(path, concept_file_for(path, None))
        asked = [probe.shown for probe in judging]
        after = draw(parts, branch, asked, [probe.seed for probe in judging], size, method)
        before, after = ([parts.model.decode(one[None])[0] for one in some] for some in (on_test.latents, after))
        chosen: dict[str, Any] = {"rate": arm.rate, "file": path.name, "seconds": round(seconds[arm], 1)}
        results.append(Result(method, chosen, of_strength, length, [c.name for c in tried], judging, before, after))
    return results


def halves(probes: Sequence[Probe]) -> tuple[list[Probe], list[Probe]]:
    """Prompts to choose by, and prompts to judge by: of each kind every second one, with all its seeds."""
    of_kind: dict[str, list[str]] = {}
    for probe in probes:
        some = of_kind.setdefault(probe.kind, [])
        some += [probe.shown] if probe.shown not in some else []
    first = [probe for probe in probes if of_kind[probe.kind].index(probe.shown) % 2 == 0]
    return first, [probe for probe in probes if probe not in first] or first


def _drawn(parts: Parts, probes: Sequence[Probe], size: tuple[int, int]) -> list:
    texts, seeds = [probe.base for probe in probes], [probe.seed for probe in probes]
    return draw(parts, PRETRAINED_BRANCH, texts, seeds, size, "before")


def _card(auditor: Auditor, students: Students, path: Path, strength: float) -> Card:
    branch = students.branch(path, concept_file_for(path, None), strength)
    return auditor.card(path.stem, branch, auditor.shifts(branch), {})
