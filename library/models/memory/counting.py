"""What the parts of a model need on the device, counted on the meta device from their configurations alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from library.models.memory.live_memory import LiveMemory, fused_attention, held_by, storage_bytes
from library.models.memory.operations import META
from library.models.memory.work import Work

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


@dataclass(frozen=True)
class Footprint:
    """What a part needs.

    Args:
        weights, transient: bytes on the device: what stays while it is in use, and what comes on top at its worst.
        work: what it computes in one pass.
        read: bytes of its files, where it is read for the sake of that pass alone.
    """

    weights: int
    transient: int
    work: Work = field(default_factory=Work)
    read: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.weights + self.transient


def as_skeleton(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with shapes and no numbers, as if it had been loaded in this precision."""
    module = module.to(META).requires_grad_(False).eval()
    for tensor in held_by(module):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return module


@torch.no_grad()
def count_pass(module: nn.Module, run: Callable[[], Any]) -> Footprint:
    """What `run`, a pass without gradient through a module on the meta device, needs."""
    with fused_attention(), LiveMemory() as memory:
        run()
    return Footprint(storage_bytes(held_by(module)), memory.peak, memory.work)


def count_encode(vae: AutoencoderKL, width: int, height: int, dtype: torch.dtype) -> Footprint:
    """What encoding one picture of N pixels needs; the VAE is on the meta device."""
    pixels = torch.zeros(1, 3, height, width, dtype=dtype, device=META)
    return count_pass(vae, lambda: vae.encode(pixels).latent_dist.std)


def count_decode(vae: AutoencoderKL, latents: tuple[int, int, int], dtype: torch.dtype) -> Footprint:
    """What decoding one picture from latents (C, h, w) needs."""
    noise = torch.zeros(1, *latents, dtype=dtype, device=META)
    return count_pass(vae, lambda: vae.decode(noise).sample)
