"""Changes of a layer's weight that aren't stored as a product of two thin matrices: LoKr, LoHa, whole weights.

A change that equals a LoRA becomes one: Hadamard and Kronecker products of ranks r and s have rank r s at most. Any
other change is as large as the weight itself. It is computed on demand, and so is the closest LoRA of any rank.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from library.adapters.extraction import extracted
from library.adapters.network import LayerWeights

Product = tuple[Tensor, Tensor]
"""A matrix as (outputs, r) times (r, inputs), float32."""


@dataclass(frozen=True)
class Closest:
    """The closest LoRA of some rank.

    Args:
        lost, total: squared norms of what it misses, and of the whole change.
    """

    weights: LayerWeights
    lost: float
    total: float


class WholeChange(ABC):
    """A change of a layer's whole weight."""

    shape: tuple[int, int]
    """(out, in)."""

    @abstractmethod
    def delta(self) -> Tensor:
        """The update of the layer's weight, (out, in), float32; computed on every call."""

    def rows(self, begin: int, end: int) -> WholeChange:
        """The change of some of the outputs."""
        return MadeChange((end - begin, self.shape[1]), lambda: self.delta()[begin:end])

    def turned(self) -> WholeChange:
        """The same change with the two halves of its outputs swapped."""
        return MadeChange(self.shape, lambda: torch.cat(self.delta().chunk(2)[::-1]))

    def closest(self, rank: int) -> Closest:
        """The closest LoRA of this rank, by the largest singular directions."""
        change = self.delta()
        found = extracted(change, rank)
        whole = rank >= min(self.shape)
        lost = 0.0 if whole else float((change - found.delta()).double().square().sum())
        return Closest(found, lost, float(change.double().square().sum()))


@dataclass(frozen=True)
class MadeChange(WholeChange):
    """A change that a function computes.

    Args:
        make: returns it, (out, in) float32.
    """

    shape: tuple[int, int]
    make: Callable[[], Tensor]

    def delta(self) -> Tensor:
        return self.make()


@dataclass(frozen=True)
class Kronecker(WholeChange):
    """scale * one (x) other: the change of a LoKr.

    Args:
        one: (a, b). other: (c, d). The change is (a c, b d).
    """

    one: Tensor
    other: Tensor
    scale: float
    shape: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        sides = len(self.one) * len(self.other), self.one.shape[1] * self.other.shape[1]
        object.__setattr__(self, "shape", sides)

    def delta(self) -> Tensor:
        return self.scale * torch.kron(self.one, self.other)

    def closest(self, rank: int) -> Closest:
        """Needs no large SVD: a Kronecker product's singular values are the products of its factors'."""
        (u1, s1, v1), (u2, s2, v2) = (
            torch.linalg.svd(part.double(), full_matrices=False) for part in (self.one, self.other)
        )
        values, order = (abs(self.scale) * torch.outer(s1, s2)).flatten().sort(descending=True)
        first, second = order[:rank] // len(s2), order[:rank] % len(s2)
        root = values[:rank].sqrt()
        up = _columns(u1[:, first], u2[:, second]) * root * math.copysign(1.0, self.scale)
        down = _columns(v1[first].T, v2[second].T) * root
        squares = values.square()
        weights = LayerWeights(down.T.float().contiguous(), up.float(), float(len(root)))
        return Closest(weights, float(squares[rank:].sum()), float(squares.sum()))


FileChange = LayerWeights | WholeChange
"""A file's update of a layer's weight."""


def kronecker(one: Tensor | Product, other: Tensor | Product, scale: float) -> FileChange:
    """A LoKr's change of one layer, as a LoRA if that takes fewer numbers than the weight.

    Args:
        one, other: a matrix each, or the product that stands for it.
    """
    (up1, down1), (up2, down2) = _as_product(one), _as_product(other)
    shape, rank = (len(up1) * len(up2), down1.shape[1] * down2.shape[1]), len(down1) * len(down2)
    if _is_thin(rank, shape):
        return LayerWeights(torch.kron(down1, down2), torch.kron(up1, up2), scale * rank)
    return Kronecker(up1 @ down1, up2 @ down2, scale)


def hadamard(one: Product, other: Product, scale: float) -> FileChange:
    """A LoHa's change of one layer, scale * one * other, as a LoRA if that takes fewer numbers than the weight."""
    (up1, down1), (up2, down2) = one, other
    shape, rank = (len(up1), down1.shape[1]), len(down1) * len(down2)
    if not _is_thin(rank, shape):
        return MadeChange(shape, lambda: scale * (up1 @ down1) * (up2 @ down2))
    up = (up1[:, :, None] * up2[:, None, :]).flatten(1)
    down = (down1[:, None, :] * down2[None, :, :]).flatten(0, 1)
    return LayerWeights(down, up, scale * rank)


def _is_thin(rank: int, shape: tuple[int, int]) -> bool:
    return rank * (shape[0] + shape[1]) <= shape[0] * shape[1]


def _as_product(part: Tensor | Product) -> Product:
    """A matrix as the thinner of its products with the identity."""
    if isinstance(part, tuple):
        return part
    outputs, inputs = part.shape
    return (part, torch.eye(inputs)) if inputs <= outputs else (torch.eye(outputs), part)


def _columns(one: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product, column by column: (a, r) and (c, r) give (a c, r)."""
    return (one[:, None, :] * other[None, :, :]).flatten(0, 1)
