"""Penalties on the weights."""

import torch


def total(penalty) -> torch.Tensor:
    """A penalty's sum over all its layers."""
    return sum(penalty.of_layer(name) for name in penalty.layers)
