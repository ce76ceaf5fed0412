"""Steps inside the backward pass: each weight makes its step as soon as its gradient is whole, and lets go of it.

So the gradients of all weights are never there together, which is what makes full fine-tuning fit (as
`fused_backward_pass` of sd-scripts). Weights in bf16 are rounded up or down by chance, in proportion: a change smaller
than half a step of bf16 is then made sometimes, instead of never.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from library.chance import seed_for
from library.penalties import Penalty


def stochastically_rounded(values: Tensor, generator: torch.Generator) -> Tensor:
    """float32 as bf16, each number to one of its two neighbours, so that it is right on average.

    Args:
        generator: on the device of the values.
    """
    bits = values.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, device=bits.device, dtype=torch.int32, generator=generator)
    return ((bits + noise) & -(1 << 16)).view(torch.float32).bfloat16()


def stand_in_of(parameter: nn.Parameter) -> nn.Parameter:
    """What an optimizer holds for a parameter: itself, or for one in bf16 an empty one that its steps fill."""
    if parameter.dtype == torch.float32:
        return parameter
    return nn.Parameter(torch.empty(0, device=parameter.device))


class FusedSteps:
    """Makes the steps of an optimizer inside the backward pass.

    Args:
        stand_ins: each parameter, and what the optimizer holds for it; see `stand_in_of`.
        penalties: name, weight and loss of the weights, whose gradients join in.
        max_norm: length that the gradient of each parameter is clipped to.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        stand_ins: Sequence[tuple[nn.Parameter, nn.Parameter]],
        penalties: Sequence[tuple[str, float, Penalty]],
        max_norm: float,
        seed: int,
    ) -> None:
        self.optimizer, self.penalties, self.max_norm, self.seed = optimizer, penalties, max_norm, seed
        self.step, self._squared = 0, 0.0
        layers = [item for _, _, penalty in penalties for item in penalty.layers.items()]
        layer_of = {weight: name for name, layer in layers for weight in layer.parameters()}
        for number, (parameter, stand_in) in enumerate(stand_ins):
            parameter.register_post_accumulate_grad_hook(self._hook(number, stand_in, layer_of.get(parameter)))

    def norm(self) -> float:
        """Length of all gradients of the last backward pass, before they were clipped; begins a new step."""
        norm, self._squared = math.sqrt(self._squared), 0.0
        return norm

    def _hook(self, number: int, stand_in: nn.Parameter, layer: str | None):
        @torch.no_grad()
        def made(parameter: nn.Parameter) -> None:
            for _, weight, penalty in self.penalties:
                if layer is not None:
                    penalty.add_gradient(layer, weight)
            norm = float(nn.utils.clip_grad_norm_([parameter], self.max_norm or math.inf))
            self._squared += norm**2
            if not math.isfinite(norm):
                parameter.grad = None
                return
            apart = stand_in is not parameter
            if apart:
                stand_in.data, stand_in.grad = parameter.float(), parameter.grad.float()
            self.optimizer.step()
            if apart:
                generator = torch.Generator(parameter.device)
                generator.manual_seed(seed_for(self.seed, "rounding", self.step, number))
                parameter.copy_(stochastically_rounded(stand_in.data, generator))
                stand_in.data, stand_in.grad = torch.empty(0, device=parameter.device), None
            parameter.grad = None

        return made
