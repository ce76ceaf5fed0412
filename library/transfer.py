"""Tensors on their way to the device that computes."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. On its way to an NVIDIA card the program does not wait for it.

    It goes by pinned memory, which PyTorch keeps until the copy is done, and which can't hold what is only repeated.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
