"""Moves tensors to the device that computes."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. The program does not wait for a copy to an NVIDIA GPU.

    The copy uses pinned memory, which PyTorch keeps until it is done. Pinned memory can't hold expanded tensors.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def moved(module: Module, device: torch.device) -> Module:
    """The module, after moving; diffusers and transformers wrap their own `to`, which hides its type."""
    return module.to(device)
