"""How gradients change weights: at the end of a step (with a scaled loss for fp16) or inside the backward pass.

A stage chooses one of them when it is built: see `make_update`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from library.adapters.penalties import Penalty
from library.chance import seed_for
from library.config.settings import OptimizerSettings
from library.optim import build_optimizer

Penalties = Sequence[tuple[str, float, Penalty]]
"""Name, weight and loss of the weights themselves."""


@dataclass(frozen=True)
class Learner:
    """Weights that learn, at one learning rate.

    Args:
        name: in the log: "lr" or "embedding_lr".
    """

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float


class Update(ABC):
    """Turns the gradients of a step into a change of the weights: `begin`, `backward` of each batch, `clip`, `step`.

    Args:
        learners: whose weights change; each has at least one.
        penalties: whose gradients are added to the loss's.
        held: the optimizer's parameters for each learner's weights, in order.

    Attributes:
        repeatable: a step that failed before `step` has changed nothing and can be repeated.
    """

    repeatable = True

    def __init__(
        self,
        learners: Sequence[Learner],
        settings: OptimizerSettings,
        penalties: Penalties,
        held: Sequence[Sequence[nn.Parameter]],
    ) -> None:
        self.learners = learners
        self.parameters = [parameter for learner in learners for parameter in learner.parameters]
        self.penalties = penalties
        self.max_norm = settings.max_grad_norm or math.inf
        self.optimizer = build_optimizer(
            [{"params": some, "lr": one.learning_rate} for some, one in zip(held, learners, strict=True)], settings
        )

    def begin(self, step: int) -> None:  # noqa: B027  most kinds have nothing to prepare
        """Starts the step of that number."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss, (), to the step's gradients."""

    @abstractmethod
    def clip(self) -> float:
        """Clips the step's gradients once they are added up; returns their norm before clipping."""

    @abstractmethod
    def step(self) -> None:
        """Changes the weights, and forgets the gradients."""

    def reject(self) -> str:
        """Handles a NaN or infinite norm of the gradients; returns what changes because of it, for the log."""
        return ""

    def forget(self) -> None:
        """Forgets the gradients of a skipped step."""
        self.optimizer.zero_grad(set_to_none=True)

    def rates(self) -> dict[str, float]:
        """The learning rate of each learner, by its name."""
        groups = zip(self.learners, self.optimizer.param_groups, strict=True)
        return {learner.name: float(group["lr"]) for learner, group in groups}

    def state(self) -> dict[str, Any]:
        """What it needs to continue, besides the weights."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": {}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from there."""
        self.optimizer.load_state_dict(state["optimizer"])


class Plain(Update):
    """One step of the optimizer with all gradients."""

    def __init__(self, learners: Sequence[Learner], settings: OptimizerSettings, penalties: Penalties = ()) -> None:
        super().__init__(learners, settings, penalties, [one.parameters for one in learners])

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss, (), to the step's gradients."""
        loss.backward()

    def clip(self) -> float:
        """Adds the penalties' gradients, then clips all to `max_grad_norm`; returns their norm before clipping."""
        for _, weight, penalty in self.penalties:
            for layer in penalty.layers:
                penalty.add_gradient(layer, weight)
        return float(nn.utils.clip_grad_norm_(self.parameters, self.max_norm))

    def step(self) -> None:
        """Changes the weights, and forgets the gradients."""
        self.optimizer.step()
        self.forget()


class Scaled(Plain):
    """Like `Plain`, for fp16: the loss is scaled so that small gradients don't vanish.

    Args:
        device: of the losses.
    """

    def __init__(
        self, learners: Sequence[Learner], settings: OptimizerSettings, penalties: Penalties, device: torch.device
    ) -> None:
        super().__init__(learners, settings, penalties)
        self.scaler = torch.amp.GradScaler(device.type)
        self.scaler.scale(torch.zeros((), device=device))  # a process may have no image in a whole step

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of the scaled loss."""
        self.scaler.scale(loss).backward()

    def clip(self) -> float:
        """Removes the scale from the gradients first."""
        self.scaler.unscale_(self.optimizer)
        return super().clip()

    def step(self) -> None:
        """Changes the weights, forgets the gradients, and may increase the scale."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.forget()

    def reject(self) -> str:
        """Reduces the scale, and reports that."""
        self.scaler.update()
        return f" (loss scale of fp16 from now on: {self.scaler.get_scale():g})"

    def state(self) -> dict[str, Any]:
        """The same, with the scale."""
        return {**super().state(), "scaler": self.scaler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The same, with the scale."""
        super().load_state(state)
        self.scaler.load_state_dict(state["scaler"])


class Fused(Update):
    """Updates each weight inside the backward pass, as soon as its gradient is complete, and releases the gradient.

    So the gradients of all weights never exist together, which makes full fine-tuning fit (like sd-scripts'
    `fused_backward_pass`). Weights in bf16 are rounded stochastically: a change smaller than half a step of bf16 then
    happens sometimes instead of never. Works only in one process. A weight with a NaN or infinite gradient does not
    change, and each gradient is clipped separately.
    """

    repeatable = False

    def __init__(self, learners: Sequence[Learner], settings: OptimizerSettings, penalties: Penalties = ()) -> None:
        held = [[stand_in_of(one) for one in learner.parameters] for learner in learners]
        super().__init__(learners, settings, penalties, held)
        self.seed = settings.seed
        self._step = 0
        self._squared = 0.0
        layers = [item for _, _, penalty in penalties for item in penalty.layers.items()]
        layer_of = {weight: name for name, layer in layers for weight in layer.parameters()}
        stand_ins = (one for some in held for one in some)
        for number, (parameter, stand_in) in enumerate(zip(self.parameters, stand_ins, strict=True)):
            parameter.register_post_accumulate_grad_hook(self._hook(number, stand_in, layer_of.get(parameter)))

    def begin(self, step: int) -> None:
        """Starts the step of that number."""
        self._step = step

    def backward(self, loss: Tensor) -> None:
        """Updates every weight."""
        loss.backward()

    def clip(self) -> float:
        """The norm of all gradients of the backward pass, before clipping."""
        norm = math.sqrt(self._squared)
        self._squared = 0.0
        return norm

    def step(self) -> None:
        """Does nothing: all weights are already updated."""

    def _hook(self, number: int, stand_in: nn.Parameter, layer: str | None) -> Callable[[nn.Parameter], None]:
        @torch.no_grad()
        def made(parameter: nn.Parameter) -> None:
            for _, weight, penalty in self.penalties:
                if layer is not None:
                    penalty.add_gradient(layer, weight)
            norm = float(nn.utils.clip_grad_norm_([parameter], self.max_norm))
            self._squared += norm**2
            if not math.isfinite(norm):
                parameter.grad = None
                return
            apart = stand_in is not parameter
            if apart:
                stand_in.data = parameter.float()
                assert parameter.grad is not None, "the backward pass has just made it"
                stand_in.grad = parameter.grad.float()
            self.optimizer.step()
            if apart:
                generator = torch.Generator(parameter.device)
                generator.manual_seed(seed_for(self.seed, "rounding", self._step, number))
                parameter.copy_(stochastically_rounded(stand_in.data, generator))
                stand_in.data = torch.empty(0, device=parameter.device)
                stand_in.grad = None
            parameter.grad = None

        return made


def make_update(
    learners: Sequence[Learner],
    settings: OptimizerSettings,
    penalties: Penalties = (),
    *,
    device: torch.device,
    fp16: bool = False,
    fused: bool = False,
) -> Update:
    """The kind of update in the settings; learners without weights are left out.

    Args:
        device: of the losses.
        fp16: the forward pass is in half precision.
        fused: weights are updated inside the backward pass; never together with fp16.
    """
    some = [learner for learner in learners if learner.parameters]
    if fused:
        return Fused(some, settings, penalties)
    return Scaled(some, settings, penalties, device) if fp16 else Plain(some, settings, penalties)


def stand_in_of(parameter: nn.Parameter) -> nn.Parameter:
    """The optimizer's stand-in for a parameter: the parameter itself, or for bf16 an empty one that its steps fill."""
    if parameter.dtype == torch.float32:
        return parameter
    return nn.Parameter(torch.empty(0, device=parameter.device))


def stochastically_rounded(values: Tensor, generator: torch.Generator) -> Tensor:
    """Rounds float32 to bf16, each number to one of its two neighbours, so that it is right on average.

    Args:
        generator: on the device of the values.
    """
    bits = values.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, device=bits.device, dtype=torch.int32, generator=generator)
    return ((bits + noise) & -(1 << 16)).view(torch.float32).bfloat16()
