"""Losses of the weights themselves."""

import torch


def total(penalty) -> torch.Tensor:
    """Over all its layers."""
    return sum(penalty.of_layer(name) for name in penalty.layers)
