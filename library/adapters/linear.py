"""A frozen linear layer with several low-rank adapters, of which each row of a batch uses its own.

Why not PEFT: its mixed batches work in evaluation mode only and not with gradient checkpointing, and switching the
adapter of a whole model twice a step takes long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor, nn

from library.per_pass import PerPass


@dataclass(frozen=True)
class Facts:
    """What a gate may know of the rows of a pass.

    Args:
        sigma: their noise levels, (B,).
        named: of each, where the triggers' tokens are in the text stream.
    """

    sigma: Tensor
    named: tuple[tuple[int, ...], ...]

    def of(self, rows: slice) -> Facts:
        """Those of some of the rows."""
        return Facts(self.sigma[rows], self.named[rows])


class Gate(Protocol):
    """Says where an adapter acts: at which noise levels, with which ranks, on which tokens."""

    def __call__(self, low: Tensor, facts: Facts) -> Tensor:
        """How much of what is between the two matrices, (B, ..., rank), counts; in a shape that broadcasts to it."""


@dataclass(frozen=True)
class Form:
    """A LoRA that is more than a plain one while it learns; its file is a plain one all the same.

    Args:
        gate: where it acts; None: everywhere.
        orthogonal: see `library.adapters.orthogonal`.
    """

    gate: Gate | None = None
    orthogonal: bool = False


PLAIN = Form()


@dataclass(frozen=True)
class Route:
    """How a pass goes through the adapters.

    Args:
        rows: which adapter each slice of rows uses; None: the pretrained weights alone.
        thinned: adapters that learn go without what their dropout takes.
        facts: of the rows, for adapters with a gate.
    """

    rows: tuple[tuple[slice, str | None], ...]
    thinned: bool = False
    facts: Facts | None = None


NO_ADAPTER = Route(((slice(None), None),))


def route_of(adapters: Sequence[str | None], thinned: bool = False, facts: Facts | None = None) -> Route:
    """The route of a batch from the adapter of each of its rows."""
    route, begin = [], 0
    for adapter, rows in groupby(adapters):
        count = len(list(rows))
        route.append((slice(begin, begin + count), adapter))
        begin += count
    return Route(tuple(route), thinned, facts)


@dataclass(frozen=True)
class Dropout:
    """What an adapter goes without while it learns, as in sd-scripts; each a share.

    What is dropped is drawn once for a layer and pass, the same for all of its rows, so that no difference of two
    predictions is one of two networks.

    Args:
        inner: of the numbers between the two matrices.
        ranks: of the ranks; what is left counts for more, as if the rank were as before.
        whole: how often the adapter is left out.
    """

    inner: float = 0.0
    ranks: float = 0.0
    whole: float = 0.0

    def of(self, low: Tensor) -> Tensor:
        """What is left of what is between the two matrices, (B, ..., rank)."""
        if self.whole and float(torch.rand(())) < self.whole:
            return low * 0
        if self.inner:
            low = low * nn.functional.dropout(torch.ones_like(low[:1]), self.inner)
        if self.ranks:
            low = low * nn.functional.dropout(low.new_ones(low.shape[-1]), self.ranks)
        return low


NOTHING_DROPPED = Dropout()


Layer = nn.Linear | nn.Conv2d
"""Layers that can have adapters: linear ones, and convolutions of patches that do not overlap."""


def size_of(layer: nn.Module) -> tuple[int, int] | None:
    """Outputs and inputs of a layer that can have adapters: a linear one, or a convolution of patches that do not
    overlap, which is linear in each patch; None for any other."""
    if isinstance(layer, nn.Conv2d):
        fits = layer.kernel_size == layer.stride and not any(layer.padding) and layer.groups == 1
        return shape_of(layer) if fits else None
    return shape_of(layer) if isinstance(layer, nn.Linear) else None


def shape_of(layer: Layer) -> tuple[int, int]:
    """Outputs and inputs of a layer that is known to take adapters."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.weight[0].numel()
    return layer.out_features, layer.in_features


class LowRank(nn.Module):
    """One adapter of one layer: x -> scale * up(dropout(down(x))). Its weights begin as float32.

    Args:
        rank: width of the bottleneck.
        alpha: the scale is alpha / rank.
        generator: draws `down`, on the CPU; `up` is 0, so a fresh adapter changes nothing.
        gate: where it acts; None: everywhere.
    """

    def __init__(
        self,
        base: Layer,
        rank: int,
        alpha: float,
        dropout: Dropout = NOTHING_DROPPED,
        generator: torch.Generator | None = None,
        gate: Gate | None = None,
    ) -> None:
        super().__init__()
        outputs, inputs = shape_of(base)
        down = nn.init.kaiming_uniform_(torch.empty(rank, inputs), a=math.sqrt(5), generator=generator)
        self.down = nn.Parameter(down.to(base.weight.device))
        self.up = nn.Parameter(torch.zeros(outputs, rank, device=base.weight.device))
        self.alpha = alpha
        self.dropout = dropout
        self.gate = gate
        self.strength = 1.0

    @property
    def rank(self) -> int:
        """Width of the bottleneck."""
        return len(self.down)

    @property
    def scale(self) -> float:
        """What the product of both matrices is multiplied with: alpha / rank, times the strength it is used at."""
        return self.strength * self.alpha / self.rank

    def forward(self, x: Tensor, thinned: bool = False, facts: Facts | None = None) -> Tensor:
        """(..., in) -> (..., out), in the precision of x.

        Args:
            thinned: with dropout, if it learns.
            facts: of the rows of x.

        Raises:
            ValueError: it has a gate, and there are no facts.
        """
        low = self._kept(nn.functional.linear(x, self.down.to(x.dtype)), thinned, facts)
        return nn.functional.linear(low, self.up.to(x.dtype)) * self.scale

    def _kept(self, low: Tensor, thinned: bool, facts: Facts | None) -> Tensor:
        """What dropout and gate leave of what is between the two matrices."""
        if thinned and self.training:
            low = self.dropout.of(low)
        if self.gate is None:
            return low
        if facts is None:
            raise ValueError("an adapter with a gate needs to know the rows of the pass")
        return low * self.gate(low, facts)

    def change(self) -> Tensor:
        """What is added to the layer's weight, (out, in), where all of it acts."""
        return self.scale * self.up @ self.down

    def as_plain(self) -> tuple[Tensor, Tensor, float]:
        """`down`, `up` and alpha of the plain LoRA that adds the same, where all of it acts."""
        return self.down, self.up, self.alpha

    @torch.no_grad()
    def norm(self) -> Tensor:
        """||change||_F, (), float32; ||up down||^2 = <up^T up, down down^T>, so that no whole weight is made."""
        up, down = self.up.float(), self.down.float()
        return abs(self.scale) * ((up.T @ up) * (down @ down.T)).sum().clamp_min(0).sqrt()

    @torch.no_grad()
    def add_gradient_of(self, gradient: Tensor) -> None:
        """Adds to the gradients of both matrices what a gradient of `change`, (out, in), means for them."""
        gradient = self.scale * gradient.float()
        add_gradient(self.up, gradient @ self.down.float().T)
        add_gradient(self.down, self.up.float().T @ gradient)


class FullRank(nn.Module):
    """A change of all of a layer's weight, kept apart from it: x -> strength * weight(x).

    So the pretrained model stays there beside it, and a small change is not rounded away beside large weights.

    Args:
        dtype: of the change; it starts at 0.
    """

    def __init__(self, base: Layer, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        weight = torch.zeros(shape_of(base), device=base.weight.device, dtype=dtype)
        self.weight = nn.Parameter(weight)
        self.strength = 1.0

    def forward(self, x: Tensor, thinned: bool = False, facts: Facts | None = None) -> Tensor:
        """(..., in) -> (..., out), in the precision of x; whole weights have no dropout and no gate."""
        return nn.functional.linear(x, self.weight.to(x.dtype)) * self.strength

    def change(self) -> Tensor:
        """What is added to the layer's weight, (out, in)."""
        return self.strength * self.weight

    @torch.no_grad()
    def add_gradient_of(self, gradient: Tensor) -> None:
        """Adds to the weight's gradient one of `change`, (out, in)."""
        add_gradient(self.weight, gradient)


def add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Adds to the gradient of a weight, in its precision."""
    gradient = gradient.to(parameter.dtype)
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


class AdapterLinear(nn.Module):
    """A frozen linear layer and its adapters.

    Args:
        base: the layer; it is kept as it is. See `size_of`.
        route: shared by all layers of a network: which rows use which adapter in the pass that runs now.
    """

    def __init__(self, base: Layer, route: PerPass[Route]) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()
        self._route = route

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for code that looks at a layer's dtype or device."""
        return self.base.weight

    def adapter(self, name: str) -> LowRank | FullRank:
        """One of its adapters."""
        found = self.adapters[name]
        assert isinstance(found, LowRank | FullRank), f"{name} is not an adapter"
        return found

    def low_rank(self, name: str) -> LowRank:
        """One of its adapters that is known to be of low rank."""
        found = self.adapters[name]
        assert isinstance(found, LowRank), f"{name} is not of low rank"
        return found

    def full_rank(self, name: str) -> FullRank:
        """One of its adapters that is known to be a change of the whole weight."""
        found = self.adapters[name]
        assert isinstance(found, FullRank), f"{name} is not a change of a whole weight"
        return found

    def inputs(self, x: Tensor) -> Tensor:
        """What the layer is linear in, (B, ..., in), of what it is given."""
        return x

    def _added(self, adapter: str, x: Tensor, rows: slice) -> Tensor:
        route = self._route.value
        facts = None if route.facts is None else route.facts.of(rows)
        return self.adapters[adapter](self.inputs(x), route.thinned, facts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., in) -> (B, ..., out)."""
        out = self.base(x)
        parts = self._route.value.rows
        if len(parts) == 1:
            adapter = parts[0][1]
            return out if adapter is None else out + self._added(adapter, x, slice(None))
        return torch.cat(
            [out[rows] if name is None else out[rows] + self._added(name, x[rows], rows) for rows, name in parts]
        )


class AdapterPatches(AdapterLinear):
    """The same of a convolution of patches, (B, C, H, W) -> (B, out, rows, columns)."""

    base: nn.Conv2d

    def inputs(self, x: Tensor) -> Tensor:
        """The patches, (B, rows, columns, in)."""
        return nn.functional.pixel_unshuffle(x, self.base.kernel_size[0]).movedim(1, -1)

    def _added(self, adapter: str, x: Tensor, rows: slice) -> Tensor:
        return super()._added(adapter, x, rows).movedim(-1, 1)
