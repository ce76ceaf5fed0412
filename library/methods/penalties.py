"""Penalties: losses of the weights themselves, whatever they predict, with gradients that need no graph.

A penalty looks at one layer at a time, so that it costs memory for one layer and not for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from library.adapters.linear import LowRank


class Penalty(Protocol):
    """A loss of the weights of an adapter."""

    def value(self) -> Tensor:
        """(), float32."""

    def add_gradient(self, factor: float) -> None:
        """Adds `factor` times the gradient to that of each weight."""


class SquaredChange:
    """||delta W||_F^2 of all layers, delta W = scale up down; from the products of rank by rank matrices alone.

        ||up down||_F^2 = tr((up^T up) (down down^T))

    Args:
        layers: the adapters of one network.
    """

    def __init__(self, layers: Iterable[LowRank]) -> None:
        self.layers = list(layers)

    @torch.no_grad()
    def value(self) -> Tensor:
        """() float32, summed over layers."""
        total = [one.scale**2 * ((one.up.T @ one.up) * (one.down @ one.down.T)).sum() for one in self.layers]
        return torch.stack(total).sum()

    @torch.no_grad()
    def add_gradient(self, factor: float) -> None:
        """Adds factor times 2 scale^2 up (down down^T) to the gradient of up, and likewise to down's."""
        for one in self.layers:
            both = 2 * factor * one.scale**2
            _add(one.up, both * one.up @ (one.down @ one.down.T))
            _add(one.down, both * (one.up.T @ one.up) @ one.down)


def _add(parameter: nn.Parameter, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
