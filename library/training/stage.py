"""One stage: an objective, the branches it predicts with, and the weights that learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from library.chance import seed_for
from library.config.settings import OptimizerSettings
from library.dual_branch_scheduler import DualBranchScheduler
from library.errors import TrainingError, lacks_memory
from library.objectives import Losses, Objective
from library.optim import build_lr_scheduler, build_optimizer, shown, take
from library.penalties import Penalty
from library.report.log import summary
from library.training.fused import FusedSteps, stand_in_of
from library.training.not_a_number import NotANumber, describe
from library.training.scenes import SceneMaker


@dataclass(frozen=True)
class Learner:
    """Weights that learn, at one learning rate.

    Args:
        name: what it is called in the log: "lr" or "embedding_lr".
    """

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float


@dataclass(frozen=True)
class Seen:
    """What is logged of a batch, or of a process's share of it; on the CPU.

    Args:
        weight: what it counts in the step.
        sigma, parts, measures: of each image, (B,).
    """

    weight: float
    loss: float
    sigma: Tensor
    parts: dict[str, Tensor]
    measures: dict[str, Tensor]


class OutOfMemory(Exception):
    """A step's gradients did not fit. The step has changed nothing and can be made again."""


class Stage:
    """Trains step by step.

    Args:
        steps: how many it has.
        scenes: what it looks at; they say which processes make each step together.
        first: steps that count as made before the first one.
        data_anew: the pictures, noise and prompts of the first step are those of a stage's very first.
        fp16: scales the loss, so that small gradients do not vanish.
        penalties: name, weight and what is added to the loss for the weights themselves.
        fused: each weight makes its step inside the backward pass, in one process alone.
        after_step: what is done to the weights after each step; what it returns is logged.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        objective: Objective,
        branches: DualBranchScheduler,
        scenes: SceneMaker,
        learners: list[Learner],
        settings: OptimizerSettings,
        *,
        first: int = 0,
        data_anew: bool = False,
        fp16: bool = False,
        penalties: Sequence[tuple[str, float, Penalty]] = (),
        fused: bool = False,
        after_step: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self.name, self.steps, self.objective, self.branches = name, steps, objective, branches
        self.scenes, self.settings, self.processes = scenes, settings, scenes.processes
        self.first, self.done, self.skipped, self.penalties = first, first, 0, penalties
        self._unseen, self._after_step = first if data_anew else 0, after_step
        self.learners = [learner for learner in learners if learner.parameters]
        held = [[stand_in_of(one) if fused else one for one in learner.parameters] for learner in self.learners]
        self.optimizer = build_optimizer(
            [{"params": some, "lr": one.learning_rate} for some, one in zip(held, self.learners, strict=True)], settings
        )
        self.fused = None
        if fused:
            pairs = list(zip(self._parameters(), (one for some in held for one in some), strict=True))
            self.fused = FusedSteps(self.optimizer, pairs, penalties, settings.max_grad_norm, settings.seed)
        self.lr_scheduler = build_lr_scheduler(self.optimizer, settings, steps)
        self.scaler = torch.amp.GradScaler(branches.model.device.type, enabled=fp16)

    def step(self) -> dict[str, Any]:
        """One step; returns what is logged of it. A step whose loss or gradient is no number changes no weight.

        Steps inside the backward pass are skipped by weight: one whose own gradient is no number is left as it was.

        Raises:
            TrainingError: more than `max_skipped_steps` of these in a row.
            OutOfMemory: nothing was changed.
        """
        if self.fused:
            self.fused.step = self.done
        batches, seen, failed, bad = self.settings.gradient_accumulation_steps, [], False, ""
        begin = (self.done - self._unseen) * batches
        try:
            seen = [self._gradient_of(begin + index, batches) for index in range(batches)]
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            if self.fused:
                raise TrainingError(
                    f"Stage {self.name}, step {self.done + 1}: the card's memory did not suffice.",
                    "Some weights have made the step already, so it can't be made again; --resume auto goes on from "
                    "the last saved state, with more recomputed blocks or a lower resolution.",
                ) from error
            failed = True
        except NotANumber as error:
            bad = str(error)
        if self.processes.any(failed):
            self.optimizer.zero_grad(set_to_none=True)
            raise OutOfMemory
        if self.processes.any(bool(bad)):
            return self._skip(" and ".join(self.processes.gathered([bad] if bad else [])))
        self.processes.add_up_gradients(self._parameters())
        seen = self.processes.gathered([one for one in seen if one])
        self.scaler.unscale_(self.optimizer)
        penalised = self._penalise()
        if self.fused:
            norm = self.fused.norm()
        else:
            most = self.settings.max_grad_norm or math.inf
            norm = float(torch.nn.utils.clip_grad_norm_(self._parameters(), most))
        if not math.isfinite(norm):
            self.scaler.update()  # scales less from now on
            shown = [name for index in range(batches) for name in self.scenes.shown(begin + index)]
            scale = (
                f" (loss scale of fp16 from now on: {self.scaler.get_scale():g})" if self.scaler.is_enabled() else ""
            )
            return self._skip(f"the gradient is {norm}, of {', '.join(shown)}{scale}")
        rates = {learner.name: float(rate) for learner, rate in zip(self.learners, self._rates(), strict=True)}
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.lr_scheduler.step()
        after = self._after_step()
        self.done, self.skipped = self.done + 1, 0
        row = _row(seen)
        row["loss"] += sum(weight * penalised[name] for name, weight, _ in self.penalties)
        return {"stage": self.name, "step": self.done, **row, **penalised, "grad_norm": norm, **after, **rates}

    def _penalise(self) -> dict[str, float]:
        """Adds the gradients of the penalties, unless that is done already; returns the values before their weights."""
        values = {name: float(sum(map(penalty.of_layer, penalty.layers))) for name, _, penalty in self.penalties}
        for _, weight, penalty in () if self.fused else self.penalties:
            for layer in penalty.layers:
                penalty.add_gradient(layer, weight)
        return values

    def _skip(self, why: str) -> dict[str, Any]:
        """Ends a step without changing a weight."""
        self.optimizer.zero_grad(set_to_none=True)
        with warnings.catch_warnings():  # torch warns where the first step of all is one of these
            warnings.simplefilter("ignore", UserWarning)
            self.lr_scheduler.step()
        self.done, self.skipped = self.done + 1, self.skipped + 1
        lost = not all(torch.isfinite(parameter).all() for parameter in self._parameters())
        rest = (
            self.done == self.steps and 2 * self.skipped >= self.steps - self.first
        )  # of a stage too short to count to more
        if lost or rest or self.skipped > self.settings.max_skipped_steps:
            row = f"That is the {self.skipped}. step in a row without a number, so training stops."
            raise TrainingError(
                f"Stage {self.name}, step {self.done}: {why}. "
                + ("The weights themselves are no numbers any more, so training stops." if lost else row),
                "Start anew with lower learning_rate and embedding_lr, and look at these pictures; with "
                'mixed_precision = "fp16", try "bf16".',
            )
        return {"stage": self.name, "step": self.done, "skipped": why}

    def _gradient_of(self, number: int, batches: int) -> Seen | None:
        """Adds the gradient of this process's share of a batch; None if it has none of a small one."""
        reference, replay = self.scenes.reference(number), self.scenes.replay(number)
        weight = len(reference.image) / self.scenes.rows(number) / batches
        if not weight:
            self.scaler.scale(torch.zeros((), device=self.branches.model.device))  # it needs to have seen something
            return None
        own = () if self.processes.main else (self.processes.number,)
        v = self.branches.predict(reference, replay, seed_for(self.settings.seed, self.name, "dropout", number, *own))
        losses = self.objective(v)
        if not torch.isfinite(losses.total):
            mine = self.processes.share(self.scenes.rows(number))
            raise NotANumber(describe(losses, reference, replay, self.scenes.shown(number)[mine]))
        self.scaler.scale(losses.total * weight).backward()
        return _seen(weight, reference.sigma, losses)

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for learner in self.learners for parameter in learner.parameters]

    def _rates(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def shown(self) -> AbstractContextManager[None]:
        """Inside, the weights are what the optimizer means as its result, to be saved, drawn or measured."""
        return shown(self.optimizer)

    def take(self) -> None:
        """After the last step: the weights are the result from now on."""
        take(self.optimizer)

    def state(self) -> dict[str, Any]:
        """What the stage needs, besides its weights, to go on."""
        return {
            "done": self.done,
            "skipped": self.skipped,
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.done, self.skipped = state["done"], state["skipped"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        self.scaler.load_state_dict(state["scaler"])


def _seen(weight: float, sigma: Tensor, losses: Losses) -> Seen:
    parts, measures = ({name: one.cpu() for name, one in each.items()} for each in (losses.parts, losses.measures))
    return Seen(weight, float(losses.total.detach()), sigma.cpu(), parts, measures)


def _row(seen: list[Seen]) -> dict[str, Any]:
    """What is logged of the batches that make one step."""
    parts = {name: torch.cat([one.parts[name] for one in seen]) for name in seen[0].parts}
    measures = {name: torch.cat([one.measures[name] for one in seen]) for name in seen[0].measures}
    loss = sum(one.weight * one.loss for one in seen)
    return {"loss": loss, **summary(torch.cat([one.sigma for one in seen]), parts, measures)}
