"""Runs of the tiny model on a pretended GPU. Call these in a process that has one."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import torch

from library.adapters.files import ConceptFile, concept_file_of
from library.config.dataset_file import read_dataset_config
from library.config.files import TomlFile, read_settings
from library.config.in_force import in_force
from library.convert.fusing import Fusion, fuse
from library.drawing.generation import generate
from library.evaluation import audit, compare
from library.evaluation import evaluate as evaluating
from library.evaluation.probes import read_probes
from library.evaluation.quick import QuickAudit
from library.preflight.plan import Plan, make_plan
from library.training.listeners import Listeners
from library.training.run import Run
from library.training.stage import Stage
from tests.helpers.runs import ready
from tools.pretended_card.card import Card
from tools.pretended_card.computer import computer_with

torch.set_num_threads(1)
COMMANDS = {"audit": audit.run, "compare": compare.run, "evaluate": evaluating.run}


class Failed(Exception):
    """What was raised on the pretended GPU, as text: the exception may hold tensors, which can't leave the process."""


def told(work: Callable[..., Any], *given: Any) -> Any:
    """Calls a function for another process.

    Raises:
        Failed: it raised something.
    """
    try:
        return work(*given)
    except Exception:
        raise Failed(traceback.format_exc()) from None


def plan(dataset: Path, preset: Path | None, settings: dict[str, Any]) -> Plan:
    """A plan from a preset, or from none, with settings that override it."""
    read = read_settings(TomlFile(preset) if preset else None, settings)
    return make_plan(read, read_dataset_config(TomlFile(dataset), read.data))


@contextmanager
def strictly(card: Card) -> Iterator[Card]:
    """Inside, there is the pretended GPU. What may fail in a run, such as sheets, must not fail. Draws no charts."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(Listeners, "harmless", lambda self, name, *_: self.phase(name)))
        stack.enter_context(patch("library.training.report_page.plot_log", lambda rows, path: None))
        yield stack.enter_context(computer_with(card))


def train(*given: Any) -> list[Path]:
    """Makes a whole run with its report card; returns its files."""
    with strictly(Card()):
        planned = plan(*given)
        (concept,) = planned.config.concepts
        audit = QuickAudit({concept.name: read_probes(None, concept, [0])[:1]})
        run = Run(audit.planned(planned))
        run.looks.append(audit)
        return run.train()


def stages_of(run: Run) -> Iterator[Stage]:
    """The stages of a run, in order. Each is made only when it is reached, since each trains its own parts."""
    for name, make in {"extractor": run.extractor_stage, "student": run.student_stage}.items():
        if name in run.plan.stage_steps:
            yield make()


def step(*given: Any) -> dict[str, Any]:
    """Prepares a run and makes a step of each stage; returns what the pretended GPU counted in the last one."""
    with strictly(card := Card()):
        for stage in stages_of(ready(plan(*given))):
            card.begin()
            assert "skipped" not in stage.step()
        return {"peak": card.memory.peak_allocated, "kernels": card.kernels, "waits": dict(card.synchronisations)}


READY: dict[Path, tuple[Card, Stage]] = {}
"""Pretended GPUs and last stages of runs, by dataset file. Mutants share them: a step that fails changes nothing."""


def step_with(target: str, mutant: Any, dataset: Path, preset: Path | None, settings: dict[str, Any]) -> None:
    """Makes a step of stage 2 with a part of the library replaced.

    Args:
        target: dotted name of that part.
        mutant: makes the replacement from the original.
    """
    if dataset not in READY:
        with strictly(card := Card()):
            *_, last = stages_of(ready(plan(dataset, preset, settings)))
        READY[dataset] = card, last
    card, stage = READY[dataset]
    place, _, name = target.rpartition(".")
    owner = resolve_name(place)
    with strictly(card), patch.object(owner, name, mutant(getattr(owner, name))):
        stage.step()


def draw(lora: Path, dataset: Path, preset: Path | None, settings: dict[str, Any]) -> None:
    """Draws a picture with a LoRA and its concept file."""
    with strictly(Card()):
        output = settings["output_dir"] / Path("drawn.png")
        read = read_settings(TomlFile(preset) if preset else None, settings)
        generate(read, lora, ConceptFile(concept_file_of(lora)), [], ["a [V] dog"], 1.0, (32, 32), output)


def fuse_loras(loras: list[Path], dataset: Path, preset: Path | None, settings: dict[str, Any]) -> None:
    """Fuses LoRAs without vectors."""
    with strictly(Card()):
        read = read_settings(TomlFile(preset) if preset else None, settings)
        fuse(read, loras, [["a sks dog"]] * len(loras), (32, 32), Fusion(steps=1))


def evaluate(command: str, words: list[str], dataset: Path, preset: Path | None, settings: dict[str, Any]) -> str:
    """The output of a command of purecc_evaluate.py, with settings from its own file."""
    with strictly(Card()):
        read = read_settings(TomlFile(preset) if preset else None, settings)
        file = dataset.with_name(f"{command}.toml")
        file.write_text(in_force(read, read_dataset_config(TomlFile(dataset), read.data)))
        return COMMANDS[command](["--config_file", str(file), *words])


def alone(work: Callable[[Card], Any]) -> Any:
    """Calls a function with its own pretended GPU and returns its result."""
    with computer_with(Card()) as card:
        return work(card)
