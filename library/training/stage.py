"""One stage: an objective, the branches it predicts with, and how its weights learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from library.chance import seed_for
from library.config.settings import OptimizerSettings
from library.dual_branch_scheduler import DualBranchScheduler
from library.errors import TrainingError, lacks_memory
from library.objectives import Losses, Objective
from library.optim import build_lr_scheduler, shown, take
from library.report.log import summary
from library.training.not_a_number import NotANumber, describe
from library.training.scenes import SceneMaker
from library.training.update import Update


@dataclass(frozen=True)
class Seen:
    """What is logged about a batch, or a process's share of it; on the CPU.

    Args:
        weight: of it in the step.
        sigma, parts, measures: per image, (B,).
    """

    weight: float
    loss: float
    sigma: Tensor
    parts: dict[str, Tensor]
    measures: dict[str, Tensor]


class OutOfMemory(Exception):
    """A step's gradients did not fit. The step has changed nothing and can be repeated."""


class Stage:
    """Trains step by step.

    Args:
        steps: how many it has.
        scenes: its inputs; they know which processes make each step together.
        update: how gradients change the weights that learn.
        first: how many steps count as already made.
        data_anew: restarts the data: the first step here has a stage's first pictures, noise and prompts.
        after_step: changes the weights after each step; its result is logged.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        objective: Objective,
        branches: DualBranchScheduler,
        scenes: SceneMaker,
        update: Update,
        settings: OptimizerSettings,
        *,
        first: int = 0,
        data_anew: bool = False,
        after_step: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self.name = name
        self.steps = steps
        self.objective = objective
        self.branches = branches
        self.scenes = scenes
        self.processes = scenes.processes
        self.update = update
        self.settings = settings
        self.first = first
        self.done = first
        self.skipped = 0
        self._unseen = first if data_anew else 0
        self._after_step = after_step
        self.lr_scheduler = build_lr_scheduler(self.optimizer, settings, steps)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer of the update."""
        return self.update.optimizer

    def settle(self, settings: OptimizerSettings, branches: DualBranchScheduler) -> None:
        """From the next step, these settings are in force and these branches predict."""
        self.settings = settings
        self.branches = branches

    def step(self) -> dict[str, Any]:
        """Makes one step; returns its log row. A step with a NaN or infinite loss or gradient changes no weight.

        Steps inside the backward pass are skipped per weight: a weight with a NaN gradient does not change.

        Raises:
            TrainingError: more than `max_skipped_steps` skipped steps in a row.
            OutOfMemory: nothing was changed.
        """
        self.update.begin(self.done)
        try:
            seen = self._gradients()
            penalised = self._penalised()
            norm = self._clipped()
        except NotANumber as error:
            return self._skip(str(error))
        rates = self.update.rates()
        self.update.step()
        self.lr_scheduler.step()
        after = self._after_step()
        self.done += 1
        self.skipped = 0
        row = _row(seen)
        row["loss"] += sum(weight * penalised[name] for name, weight, _ in self.update.penalties)
        return {"stage": self.name, "step": self.done, **row, **penalised, "grad_norm": norm, **after, **rates}

    def _batches(self) -> range:
        """The numbers of the batches in the next step."""
        count = self.settings.gradient_accumulation_steps
        begin = (self.done - self._unseen) * count
        return range(begin, begin + count)

    def _gradients(self) -> list[Seen]:
        """Adds up the gradients of the step's batches across all processes; a failure in one fails in all.

        Raises:
            NotANumber: the loss of a picture is NaN or infinite.
            OutOfMemory: nothing was changed.
            TrainingError: memory ran out after some weights had changed.
        """
        batches = self._batches()
        seen: list[Seen | None] = []
        bad: list[str] = []
        failed = False
        try:
            seen = [self._gradient_of(number, len(batches)) for number in batches]
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            if not self.update.repeatable:
                raise TrainingError(
                    f"Stage {self.name}, step {self.done + 1}: out of GPU memory.",
                    "Some weights are already updated, so the step can't be repeated. Continue from the last saved "
                    "state with --resume auto, with more recomputed blocks or a lower resolution.",
                ) from error
            failed = True
        except NotANumber as error:
            bad = [str(error)]
        # Outside the handlers, whose exceptions keep every tensor of the failed step alive.
        if self.processes.any(failed):
            self.update.forget()
            raise OutOfMemory
        if self.processes.any(bool(bad)):
            raise NotANumber(" and ".join(self.processes.gathered(bad)))
        self.processes.add_up_gradients(self._parameters())
        return self.processes.gathered([one for one in seen if one])

    def _gradient_of(self, number: int, batches: int) -> Seen | None:
        """Adds the gradient of this process's share of a batch; None if a small batch leaves it no share."""
        objective = self.objective.in_batch(number, self.done / self.steps)
        reference, replay = self.scenes.reference(number), self.scenes.replay(number) if objective.replays else None
        weight = len(reference.image) / self.scenes.rows(number) / batches
        if not weight:
            return None
        own = () if self.processes.main else (self.processes.number,)
        seed = seed_for(self.settings.seed, self.name, "dropout", number, *own)
        losses = objective(self.branches.predict(reference, replay, seed, objective.readings))
        seen = _seen(weight, reference.sigma, losses)
        if not math.isfinite(seen.loss):
            mine = self.processes.share(self.scenes.rows(number))
            raise NotANumber(describe(losses, reference, replay, self.scenes.shown(number)[mine]))
        self.update.backward(losses.total * weight)
        return seen

    def _penalised(self) -> dict[str, float]:
        """The value of each penalty, before its weight."""
        return {name: float(sum(map(penalty.of_layer, penalty.layers))) for name, _, penalty in self.update.penalties}

    def _clipped(self) -> float:
        """Clips the step's gradients; returns their norm before clipping.

        Raises:
            NotANumber: the norm is NaN or infinite.
        """
        norm = self.update.clip()
        if not math.isfinite(norm):
            shown = ", ".join(name for number in self._batches() for name in self.scenes.shown(number))
            raise NotANumber(f"the gradient is {norm}, of {shown}{self.update.reject()}")
        return norm

    def _skip(self, why: str) -> dict[str, Any]:
        """Ends a step without changing a weight."""
        self.update.forget()
        with warnings.catch_warnings():  # torch warns if the first step of the run is skipped
            warnings.simplefilter("ignore", UserWarning)
            self.lr_scheduler.step()
        self.done += 1
        self.skipped += 1
        lost = not all(torch.isfinite(parameter).all() for parameter in self._parameters())
        rest = self.done == self.steps and 2 * self.skipped >= self.steps - self.first  # of a stage too short for more
        if lost or rest or self.skipped > self.settings.max_skipped_steps:
            row = f"Training stopped: {self.skipped} steps in a row produced NaN or infinite values."
            raise TrainingError(
                f"Stage {self.name}, step {self.done}: {why}. "
                + ("Training stopped: the weights are NaN or infinite." if lost else row),
                "Start from scratch with a lower learning_rate and embedding_lr, and check these images. With "
                'mixed_precision = "fp16", try "bf16".',
            )
        return {"stage": self.name, "step": self.done, "skipped": why}

    def _parameters(self) -> list[nn.Parameter]:
        return self.update.parameters

    def shown(self) -> AbstractContextManager[None]:
        """Inside, the weights are the optimizer's result, to be saved, drawn or measured."""
        return shown(self.optimizer)

    def take(self) -> None:
        """After the last step: replaces the weights with the optimizer's result."""
        take(self.optimizer)

    def state(self) -> dict[str, Any]:
        """What the stage needs to continue, besides its weights."""
        return {
            "done": self.done,
            "skipped": self.skipped,
            "lr_scheduler": self.lr_scheduler.state_dict(),
            **self.update.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from there."""
        self.done = state["done"]
        self.skipped = state["skipped"]
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        self.update.load_state(state)


def _seen(weight: float, sigma: Tensor, losses: Losses) -> Seen:
    """Reads everything at once, since each read waits for the device."""
    named = [*losses.parts.items(), *losses.measures.items()]
    found = torch.cat([losses.total.detach().view(1), *(one for _, one in named)]).cpu()
    total, *values = found.split([1, *(len(one) for _, one in named)])
    count = len(losses.parts)
    parts = dict(zip(losses.parts, values[:count], strict=True))
    measures = dict(zip(losses.measures, values[count:], strict=True))
    return Seen(weight, float(total), sigma.cpu(), parts, measures)


def _row(seen: list[Seen]) -> dict[str, Any]:
    """The log row of the batches in one step."""
    parts = _joined(seen, [one.parts for one in seen])
    measures = _joined(seen, [one.measures for one in seen])
    loss = sum(one.weight * one.loss for one in seen)
    return {"loss": loss, **summary(torch.cat([one.sigma for one in seen]), parts, measures)}


def _joined(seen: list[Seen], values: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The values of all images of a step, by name; NaN for batches without them."""
    names = dict.fromkeys(name for one in values for name in one)
    missing = [torch.full_like(one.sigma, torch.nan) for one in seen]
    return {name: torch.cat([one.get(name, none) for one, none in zip(values, missing, strict=True)]) for name in names}
