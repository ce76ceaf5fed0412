"""What the parts of a model need on the device, counted on the meta device from their configurations alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from library.models.memory.allocator import gaps_of
from library.models.memory.live_memory import LiveMemory, fused_attention, held_by, storage_sizes
from library.models.memory.operations import META
from library.models.memory.work import Work

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


@dataclass(frozen=True)
class Footprint:
    """What a part needs.

    Args:
        weights, transient: bytes on the device: what stays while it is in use, and what comes on top at its worst.
        gaps: bytes between tensors, which PyTorch's allocator holds for itself.
        resting: such bytes while nothing is there but what stays.
        work: what it computes in one pass.
        read: bytes of its files, where it is read for the sake of that pass alone.
    """

    weights: int
    transient: int
    work: Work = field(default_factory=Work)
    read: int = 0
    gaps: int = 0
    resting: int = 0

    @property
    def held(self) -> int:
        """What tensors take."""
        return self.weights + self.transient

    @property
    def total(self) -> int:
        """What the allocator has to have of the device."""
        return self.held + self.gaps


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
    return footprint_of(held_by(module), memory)


def footprint_of(tensors: Iterable[Tensor], memory: LiveMemory) -> Footprint:
    """What tensors that stay need together with what was followed while they were used."""
    sizes = storage_sizes(tensors)
    gaps, resting = gaps_of(sizes, [memory.events]), gaps_of(sizes, [])
    return Footprint(sum(sizes), memory.peak, memory.work, gaps=gaps, resting=resting)


def count_encode(vae: AutoencoderKL, width: int, height: int, dtype: torch.dtype) -> Footprint:
    """What encoding one picture of N pixels needs; the VAE is on the meta device."""
    pixels = torch.zeros(1, 3, height, width, dtype=dtype, device=META)
    return count_pass(vae, lambda: vae.encode(pixels).latent_dist.std)


def count_decode(vae: AutoencoderKL, latents: tuple[int, int, int], dtype: torch.dtype) -> Footprint:
    """What decoding one picture from latents (C, h, w) needs."""
    noise = torch.zeros(1, *latents, dtype=dtype, device=META)
    return count_pass(vae, lambda: vae.decode(noise).sample)
