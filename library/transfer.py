"""Tensors on their way to the device that computes."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. On its way to an NVIDIA GPU the program does not wait for it.

    It goes by pinned memory, which PyTorch keeps until the copy is done, and which can't hold what is only repeated.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def moved(module: Module, device: torch.device) -> Module:
    """The module, once it is there; diffusers and transformers wrap their own `to`, which hides its type."""
    return module.to(device)
