"""The budget of every method in a comparison: a number of steps, of passes through the transformer, or a time.

A pass is one forward pass of a batch; one with a gradient counts as three. So a step of a plain LoRA costs 3, and one
of a method that looks at other prompts and at the pretrained model's predictions as well costs more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from library.config.settings import Settings
from library.errors import ConfigError
from library.files.atomic import write_text
from library.parts.branching import objective_of
from library.predictions import EXTRACTOR, STUDENT, Reading
from library.preflight.phases import CONTEXT, passes_of_context
from library.preflight.plan import Plan
from library.report.status import read_status

Unit = Literal["steps", "passes", "seconds"]
UNITS: tuple[Unit, ...] = ("steps", "passes", "seconds")
GRADIENT = 3
"""How many passes one with a gradient counts as."""
TIMED = 6
"""Steps of each stage that are timed, for a budget in seconds."""


@dataclass(frozen=True)
class Cost:
    """What a method's step costs, and what it learns before its first one.

    Args:
        steps: each stage's share of all steps; they sum up to 1.
        each: what a step of each stage costs.
        before: what it costs until then: context vectors.
    """

    steps: dict[str, float]
    each: dict[str, float]
    before: float = 0.0

    @property
    def in_steps(self) -> Cost:
        """The same where every step counts the same and nothing else does."""
        return replace(self, each=dict.fromkeys(self.each, 1.0), before=0.0)

    def steps_for(self, budget: float, method: str, unit: Unit) -> dict[str, int]:
        """Steps of each stage that the budget pays for.

        Raises:
            ConfigError: for less than one of each.
        """
        total = (budget - self.before) / sum(share * self.each[stage] for stage, share in self.steps.items())
        found = {stage: round(share * total) for stage, share in self.steps.items()}
        if unit == "steps":  # to the step
            found[STUDENT] = round(budget) - sum(steps for stage, steps in found.items() if stage != STUDENT)
        if min(found.values()) < 1:
            already = f", of which {self.before:.0f} go into context vectors" if self.before else ""
            raise ConfigError(
                f"--budget: {budget:g} {unit} are not enough for one step of each stage of {method}{already}.",
                "Raise it, or leave the method out.",
            )
        return found


def shares_of(settings: Settings) -> dict[str, float]:
    """Each stage's share of the steps, as the settings part them."""
    optimizer, pure = settings.optimizer, settings.pure_learning
    both = optimizer.max_train_steps + optimizer.extractor_train_steps
    trains = bool(settings.needs_extractor and not pure.merged and not pure.extractor and both)
    first = optimizer.extractor_train_steps / both if trains else 0.0
    return {EXTRACTOR: first, STUDENT: 1 - first} if first else {STUDENT: 1.0}


def passes_of(plan: Plan) -> Cost:
    """What a method costs in passes of a batch."""
    settings = plan.settings
    shares = shares_of(settings)
    each = {stage: _passes_of_step(stage, settings, plan.has_reg) for stage in shares}
    return Cost(shares, each, passes_of_context(plan) / plan.batch_size)


def _passes_of_step(stage: str, settings: Settings, has_reg: bool) -> float:
    """The mean of all kinds of batches."""
    kinds = objective_of(stage, settings, has_reg).kinds
    return sum(_passes_of_batch(kind.readings) for kind in kinds) / len(kinds)


def _passes_of_batch(readings: Collection[Reading]) -> int:
    learned = {reading.prediction for reading in readings if reading.gradient}
    return GRADIENT * len(learned) + len({reading.prediction for reading in readings} - learned)


def spent(folder: Path) -> dict[str, float]:
    """Seconds of each phase in which a finished run learned: its context and its stages.

    What all methods share is left out, or the first one would pay for the others: text, latents, replayed pictures,
    Fisher information, sheets. Context vectors that a run found in the cache cost it what learning them took.
    """
    status = read_status(folder)
    phases = {one["name"]: one["seconds"] for one in status.get("phases", ())}
    return {
        CONTEXT: status.get("context_seconds", 0.0),
        **{name: phases.get(name, 0.0) for name in (EXTRACTOR, STUDENT)},
    }


def seconds_of(shares: dict[str, float], timed: Path) -> Cost:
    """What a method costs in seconds, by a run of `TIMED` steps of each stage that is finished in that folder."""
    phases = spent(timed)
    return Cost(shares, {stage: phases[stage] / TIMED for stage in shares}, phases[CONTEXT])


def kept_steps(
    file: Path, asked: dict[str, object], count: Callable[[], dict[str, dict[str, int]]]
) -> dict[str, dict[str, int]]:
    """The steps of every method, counted once for a folder: a clock never says the same twice.

    Args:
        asked: what the budget is.

    Raises:
        ConfigError: the folder holds a comparison of another budget.
    """
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before["asked"] != asked:
            said = ", ".join(f"{name} {value}" for name, value in before["asked"].items())
            raise ConfigError(
                f"{file.parent} contains a comparison with {said}.", "Choose another --out, or remove it."
            )
        return before["steps"]
    steps = count()
    write_text(file, json.dumps({"asked": asked, "steps": steps}))
    return steps
