"""A frozen linear layer with several low-rank adapters; each row of a batch uses its own.

Why not PEFT: its mixed batches work only in evaluation mode and without gradient checkpointing, and switching a whole
model's adapter twice per step is slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor, nn

from library.per_pass import PerPass


@dataclass(frozen=True, eq=False)
class Facts:
    """What a gate may know about the rows of a pass, and what gates have made of it for all layers.

    Args:
        sigma: their noise levels, (B,).
        named: for each row, where the triggers' tokens are in the text stream.
    """

    sigma: Tensor
    named: tuple[tuple[int, ...], ...]
    _parts: dict[tuple[int | None, int | None], Facts] = field(default_factory=dict, init=False, repr=False)
    _made: dict[Hashable, Tensor] = field(default_factory=dict, init=False, repr=False)

    def of(self, rows: slice) -> Facts:
        """The facts of some of the rows, the same object for every layer."""
        some = (rows.start, rows.stop)
        if some not in self._parts:
            self._parts[some] = Facts(self.sigma[rows], self.named[rows])
        return self._parts[some]

    def once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What `make` returns, made only for the first layer that asks for this key; not to be written to."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


class Gate(Protocol):
    """Says where an adapter acts: at which noise levels, with which ranks, on which tokens."""

    def __call__(self, low: Tensor, facts: Facts) -> Tensor:
        """The factor for the values between the two matrices, (B, ..., rank), in a shape that broadcasts to it."""


@dataclass(frozen=True)
class Form:
    """A LoRA that is more than a plain one while it learns; its file still holds a plain one.

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
        rows: which adapter each slice of rows uses; None: only the pretrained weights.
        thinned: learning adapters apply their dropout.
        facts: about the rows, for adapters with a gate.
    """

    rows: tuple[tuple[slice, str | None], ...]
    thinned: bool = False
    facts: Facts | None = None


NO_ADAPTER = Route(((slice(None), None),))


def route_of(adapters: Sequence[str | None], thinned: bool = False, facts: Facts | None = None) -> Route:
    """The route of a batch, given the adapter of each row."""
    route, begin = [], 0
    for adapter, rows in groupby(adapters):
        count = len(list(rows))
        route.append((slice(begin, begin + count), adapter))
        begin += count
    return Route(tuple(route), thinned, facts)


@dataclass(frozen=True)
class Dropout:
    """The dropout of an adapter while it learns, as in sd-scripts; each value is a share.

    What is dropped is drawn once per layer and pass, the same for all rows. So the difference of two predictions never
    comes from two different networks.

    Args:
        inner: of the values between the two matrices.
        ranks: of the ranks; the rest is scaled up to make up for it.
        whole: how often the adapter is left out.
    """

    inner: float = 0.0
    ranks: float = 0.0
    whole: float = 0.0

    def of(self, low: Tensor) -> Tensor:
        """The values between the two matrices, (B, ..., rank), after dropout."""
        if self.whole and float(torch.rand(())) < self.whole:
            return low * 0
        if self.inner:
            low = low * nn.functional.dropout(torch.ones_like(low[:1]), self.inner)
        if self.ranks:
            low = low * nn.functional.dropout(low.new_ones(low.shape[-1]), self.ranks)
        return low


NOTHING_DROPPED = Dropout()


Layer = nn.Linear | nn.Conv2d
"""Layers that can have adapters: linear layers, and convolutions of patches that don't overlap."""


def size_of(layer: nn.Module) -> tuple[int, int] | None:
    """Outputs and inputs of a layer that can have adapters; None for any other.

    That is a linear layer, or a convolution of patches that don't overlap, which is linear in each patch.
    """
    if isinstance(layer, nn.Conv2d):
        fits = layer.kernel_size == layer.stride and not any(layer.padding) and layer.groups == 1
        return shape_of(layer) if fits else None
    return shape_of(layer) if isinstance(layer, nn.Linear) else None


def shape_of(layer: Layer) -> tuple[int, int]:
    """Outputs and inputs of a layer that can have adapters."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.weight[0].numel()
    return layer.out_features, layer.in_features


class LowRank(nn.Module):
    """One adapter of one layer: x -> scale * up(dropout(down(x))). Its weights start as float32.

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
        """The factor of the product of both matrices: alpha / rank, times the adapter's strength."""
        return self.strength * self.alpha / self.rank

    def forward(self, x: Tensor, thinned: bool = False, facts: Facts | None = None) -> Tensor:
        """(..., in) -> (..., out), in the precision of x.

        Args:
            thinned: apply dropout, if the adapter learns.
            facts: about the rows of x.

        Raises:
            ValueError: the adapter has a gate, but there are no facts.
        """
        low = self._kept(nn.functional.linear(x, self.down.to(x.dtype)), thinned, facts)
        return nn.functional.linear(low, self.up.to(x.dtype)) * self.scale

    def _kept(self, low: Tensor, thinned: bool, facts: Facts | None) -> Tensor:
        """The values between the two matrices, after dropout and gate."""
        if thinned and self.training:
            low = self.dropout.of(low)
        if self.gate is None:
            return low
        if facts is None:
            raise ValueError("an adapter with a gate needs to know the rows of the pass")
        return low * self.gate(low, facts)

    def change(self) -> Tensor:
        """The update of the layer's weight, (out, in), where all of it acts."""
        return self.scale * self.up @ self.down

    def as_plain(self) -> tuple[Tensor, Tensor, float]:
        """`down`, `up` and alpha of the plain LoRA that adds the same, where all of it acts."""
        return self.down, self.up, self.alpha

    @torch.no_grad()
    def norm(self) -> Tensor:
        """||change||_F, (), float32, from ||up down||^2 = <up^T up, down down^T>, which needs no whole weight."""
        up, down = self.up.float(), self.down.float()
        return abs(self.scale) * ((up.T @ up) * (down @ down.T)).sum().clamp_min(0).sqrt()

    @torch.no_grad()
    def add_gradient_of(self, gradient: Tensor) -> None:
        """Passes a gradient of `change`, (out, in), on to the gradients of both matrices."""
        gradient = self.scale * gradient.float()
        add_gradient(self.up, gradient @ self.down.float().T)
        add_gradient(self.down, self.up.float().T @ gradient)


class FullRank(nn.Module):
    """A change of a layer's whole weight, kept separately: x -> strength * weight(x).

    So the pretrained model stays available, and large weights don't round a small change away.

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
        """The update of the layer's weight, (out, in)."""
        return self.strength * self.weight

    @torch.no_grad()
    def add_gradient_of(self, gradient: Tensor) -> None:
        """Adds a gradient of `change`, (out, in), to the weight's gradient."""
        add_gradient(self.weight, gradient)


def add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Adds to a weight's gradient, in the weight's precision."""
    gradient = gradient.to(parameter.dtype)
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


class AdapterLinear(nn.Module):
    """A frozen linear layer and its adapters.

    Args:
        base: the layer; it does not change. See `size_of`.
        route: shared by all layers of a network; says which rows use which adapter in the current pass.
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
        """One of its adapters, which must be of low rank."""
        found = self.adapters[name]
        assert isinstance(found, LowRank), f"{name} is not of low rank"
        return found

    def full_rank(self, name: str) -> FullRank:
        """One of its adapters, which must change the whole weight."""
        found = self.adapters[name]
        assert isinstance(found, FullRank), f"{name} is not a change of a whole weight"
        return found

    def inputs(self, x: Tensor) -> Tensor:
        """The input in the form in which the layer is linear, (B, ..., in)."""
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
    """The same for a convolution of patches, (B, C, H, W) -> (B, out, rows, columns)."""

    base: nn.Conv2d

    def inputs(self, x: Tensor) -> Tensor:
        """The patches, (B, rows, columns, in)."""
        return nn.functional.pixel_unshuffle(x, self.base.kernel_size[0]).movedim(1, -1)

    def _added(self, adapter: str, x: Tensor, rows: slice) -> Tensor:
        return super()._added(adapter, x, rows).movedim(-1, 1)
