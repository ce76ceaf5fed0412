"""Checks that a change leaves the results of tiny runs the same to the bit: python -m tools.golden --write FILE, then
--check FILE

A run's fingerprint is every number of its log and a hash of the tensors of every file it leaves. On one machine, with
one version of torch, a change that is meant to leave training alone must leave all of them as they were. Another
processor or torch adds in another order, and then only `--write` of the old code on that machine says something.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image
from safetensors.torch import load_file

from library.config.dataset_file import read_dataset_config
from library.config.files import TomlFile, read_settings
from library.errors import exit_code_of
from library.files import fingerprint
from library.preflight.plan import make_plan
from library.report.log import read_log
from library.training.run import Run
from tests.helpers.datasets import DATASET
from tests.helpers.places import ROOT
from tests.helpers.tiny import save_tiny_model, tiny_settings

CAPTIONS = {
    "dog": ["a [V] dog city", "a [V] dog beach", "a dog", "a red [V] dog"],
    "cat": ["a [V] cat", "a [V] cat city"],
}
CAT = DATASET.replace('"dog"', '"cat"').replace("sks", "ohwx")
TWO = (
    CAT[: CAT.index("[[datasets]]")]
    + DATASET
    + '  concept = "dog"\n'
    + """
  [[datasets.subsets]]
  image_dir = "{other}"
  concept = "cat"
"""
)
TIMES = frozenset({"it_s"})
"""Numbers of the log that differ between runs."""
MOST_SHOWN = 5
"""Most differences of a run that are printed."""


@dataclass(frozen=True)
class Case:
    """A run whose fingerprint is taken.

    Args:
        settings: beside the tiny model's.
        preset: file of settings that it starts from, in `presets/`.
        dataset: its concepts and pictures.
        first: settings of a run in the same folder before it, which it resumes.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    dataset: str = DATASET
    first: Mapping[str, Any] | None = None


KEPT = {"save_state_on_train_end": True, "lr_scheduler": "constant"}
CASES = {
    "own": Case({"student_embeddings": "own"}),
    "fresh": Case({"student_embeddings": "fresh"}),
    "shared": Case({"student_embeddings": "shared"}),
    "no vectors": Case({"concept_embeddings": "none", "student_embeddings": "none"}),
    "merged": Case({"merged": True}),
    "lean": Case(preset="lean", settings={"mixed_precision": "bf16", "gradient_checkpointing": True}),
    "paper": Case(preset="paper"),
    "lora": Case({"network_dropout": 0.1, "gradient_accumulation_steps": 2}, "methods/lora"),
    "bf16 weights": Case({"full_bf16": True}, "methods/lora"),
    "mix of show": Case(preset="methods/mix_of_show"),
    "words": Case(preset="methods/textual_inversion"),
    "average": Case({"ema_decay": 0.9, "save_every_n_steps": 2}),
    "average of words": Case({"ema_decay": 0.9}, "methods/textual_inversion"),
    "two concepts": Case(dataset=TWO),
    "fp16": Case({"mixed_precision": "fp16"}),
    "full": Case({"fused_backward_pass": False, "optimizer_type": "AdamW"}, "methods/dreambooth"),
    "full, fused": Case({"full_bf16": True, "with_embeddings": True, "optimizer_type": "AdamW"}, "methods/dreambooth"),
    "resumed": Case({**KEPT, "student_embeddings": "own"}, first={"max_train_steps": 1}),
    "average, resumed": Case({**KEPT, "ema_decay": 0.9}, first={"max_train_steps": 1}),
}
"""Every kind of run by name."""


def fingerprint_of(folder: Path) -> dict[str, Any]:
    """The results of a run: the numbers of every step, and a hash of every file of tensors."""
    steps = [{name: one for name, one in row.items() if name not in TIMES} for row in read_log(folder / "log.jsonl")]
    files = sorted(path for path in folder.glob("*.safetensors"))
    return {"steps": steps, "files": {path.name: fingerprint.of_tensors(load_file(path)) for path in files}}


def pictures_in(folder: Path, captions: list[str], seed: int) -> Path:
    """A folder of pictures of noise, with captions."""
    folder.mkdir()
    for index, caption in enumerate(captions):
        generator = torch.Generator().manual_seed(seed + index)
        pixels = torch.randint(0, 255, (32, 32, 3), generator=generator).byte()
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(caption)
    return folder


class Workshop:
    """Makes the runs.

    Args:
        folder: for the tiny model, its pictures and all runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, save_tiny_model(folder / "tiny")
        folder.mkdir(exist_ok=True)
        dog = pictures_in(folder / "dog", CAPTIONS["dog"], seed=0)
        self.pictures = {"pictures": dog, "other": pictures_in(folder / "cat", CAPTIONS["cat"], seed=100)}
        (folder / "replay.txt").write_text('a red {class}\n""\na blue house\n')
        (folder / "samples.txt").write_text("a sks dog\n")

    def fingerprint(self, name: str) -> dict[str, Any]:
        """Trains the run of that name and takes its fingerprint."""
        case, folder = CASES[name], self.folder / name
        tiny = tiny_settings(self.model, self.folder)
        if case.preset:
            del tiny["eta"]  # the preset's own
        common = {
            **tiny,
            "output_dir": str(folder),
            "max_train_steps": 3,
            "sample_steps": 1,
            "audit": False,
            **case.settings,
        }
        if case.first is not None:
            self._train({**common, **case.first}, case)
            common["resume"] = "auto"
        self._train(common, case)
        return fingerprint_of(folder)

    def _train(self, settings: dict[str, Any], case: Case) -> None:
        file = self.folder / "dataset.toml"
        file.write_text(case.dataset.format(**self.pictures))
        preset = TomlFile(ROOT / "presets" / f"{case.preset}.toml") if case.preset else None
        read = read_settings(preset, settings)
        Run(make_plan(read, read_dataset_config(TomlFile(file), read.data))).train()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, runs print nothing, draw no plots and use one thread."""
    torch.set_num_threads(1)
    talk, plot = io.StringIO(), mock.patch("library.training.report_page.plot_log", lambda rows, path: None)
    try:
        with plot, contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk):
            yield
    except BaseException:
        print(talk.getvalue(), file=sys.stderr)
        raise


def fingerprints_of(names: Iterable[str], folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The fingerprints of the runs of these names, and the machine they were made on.

    Args:
        folder: for the tiny model and all runs.
        say: called with the name of each run before it starts.
    """
    cpu = torch.backends.cpu.get_cpu_capability()
    made_on = {"torch": torch.__version__, "processor": f"{platform.machine()} {cpu}"}
    with quiet():
        workshop, runs = Workshop(folder), {}
    for name in names:
        say(name)
        with quiet():
            runs[name] = workshop.fingerprint(name)
    return {"made on": made_on, "runs": json.loads(json.dumps(runs))}


def differences(one: Any, two: Any, where: str = "") -> Iterator[str]:
    """The differences of two fingerprints, one per line."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in [*one, *(key for key in two if key not in one)]:
            yield from differences(one.get(key), two.get(key), f"{where} {key}".strip())
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for index, (mine, theirs) in enumerate(zip(one, two, strict=True)):
            yield from differences(mine, theirs, f"{where}[{index}]")
    elif one != two and not (one != one and two != two):  # NaN is NaN
        yield f"{where or 'all'}: {_short(one)} became {_short(two)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 30 else f"{text[:12]}..."


def compared(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences of two sets of fingerprints; empty if they are equal."""
    said = []
    if before["made on"] != now["made on"]:
        said.append(f"made on {before['made on']}, now on {now['made on']}: the bits may differ")
    for name in [*before["runs"], *(name for name in now["runs"] if name not in before["runs"])]:
        found = list(differences(before["runs"].get(name), now["runs"].get(name)))
        said += [f"{name}: {line}" for line in found[:MOST_SHOWN]]
        said += [f"{name}: and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
    return said


def main() -> int | None:
    """Runs the command; returns 1 if something differs."""
    parser = argparse.ArgumentParser(prog="python -m tools.golden", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="FILE", help="Write the fingerprints.")
    what.add_argument("--check", type=Path, metavar="FILE", help="Compare with what was written.")
    given = parser.parse_args()
    before = json.loads(given.check.read_text()) if given.check else None
    with tempfile.TemporaryDirectory() as folder:
        now = fingerprints_of(CASES, Path(folder), lambda name: print(name, file=sys.stderr))
    if before is None:
        given.write.write_text(json.dumps(now, indent=1) + "\n")
        return None
    said = compared(before, now)
    print("\n".join(said) or f"All {len(now['runs'])} runs are equal to the bit.")
    return 1 if said else None


if __name__ == "__main__":
    sys.exit(exit_code_of(main, lambda: None))
