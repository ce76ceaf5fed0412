"""Penalties: losses of the weights themselves, not of their predictions, with gradients that need no graph.

A penalty looks at one layer at a time, so it costs memory for only one layer. In full fine-tuning it does so while the
backward pass is at that layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from library.adapters.linear import FullRank, LowRank

Layers = Mapping[str, LowRank | FullRank]
"""The adapters of a network, by the name of the layer."""


class Penalty(Protocol):
    """A loss of the weights of an adapter."""

    @property
    def layers(self) -> Layers:
        """The layers that it looks at."""

    def of_layer(self, name: str) -> Tensor:
        """A layer's part of the loss, () float32."""

    def add_gradient(self, name: str, factor: float) -> None:
        """Adds `factor` times the gradient of a layer's part to the gradients of its weights."""


class SquaredChange:
    """||delta W||_F^2 of each layer, for LoRAs and whole weights; delta W is the weight's update."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers

    @torch.no_grad()
    def of_layer(self, name: str) -> Tensor:
        """() float32."""
        return self.layers[name].change().float().square().sum()

    @torch.no_grad()
    def add_gradient(self, name: str, factor: float) -> None:
        """Adds 2 factor delta W, passed on to the weights that learn."""
        self.layers[name].add_gradient_of(2 * factor * self.layers[name].change())


class FisherChange:
    """1/2 sum F o delta W^2: elastic weight consolidation (Kirkpatrick et al. 2017, Eq. 3) of the weights' updates.

    Args:
        fisher: how much each number of each layer's weight matters, (out, in).
    """

    def __init__(self, layers: Layers, fisher: Mapping[str, Tensor]) -> None:
        self.layers = layers
        self.fisher = fisher

    @torch.no_grad()
    def of_layer(self, name: str) -> Tensor:
        """() float32."""
        change = self.layers[name].change().float()
        return (self._fisher(name) * change.square()).sum() / 2

    @torch.no_grad()
    def add_gradient(self, name: str, factor: float) -> None:
        """Adds factor F o delta W, passed on to the weights that learn."""
        change = self.layers[name].change().float()
        self.layers[name].add_gradient_of(factor * self._fisher(name) * change)

    def _fisher(self, name: str) -> Tensor:
        return self.fisher[name].to(next(self.layers[name].parameters()).device, torch.float32)


class Overlap:
    """sum over earlier concepts of |A_i A^T|_1: how much a LoRA reads what earlier ones read (CIDM, Eq. 5).

    A is the matrix on the input side. It is 0 where the subspaces are orthogonal.

    Args:
        earlier: for each layer, the input-side matrices of earlier concepts, (rank, in) each.
    """

    def __init__(self, layers: Mapping[str, LowRank], earlier: Mapping[str, Sequence[Tensor]]) -> None:
        self.layers = layers
        self.earlier = earlier

    @torch.no_grad()
    def of_layer(self, name: str) -> Tensor:
        """() float32."""
        down = self.layers[name].down
        parts = [(down @ other.to(down).T).abs().sum() for other in self.earlier.get(name, ())]
        return torch.stack(parts).sum() if parts else down.new_zeros(())

    @torch.no_grad()
    def add_gradient(self, name: str, factor: float) -> None:
        """Adds factor sign(A A_i^T) A_i, only for the input-side matrix."""
        down = self.layers[name].down
        for other in self.earlier.get(name, ()):
            other = other.to(down)
            gradient = factor * (down @ other.T).sign() @ other
            down.grad = gradient if down.grad is None else down.grad.add_(gradient)
