"""What the parts of a model need on the device, counted on the meta device from configurations alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

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
        weights, transient: bytes on the device: weights, which stay while it is in use, and the peak on top of them.
        gaps: bytes that PyTorch's allocator keeps between tensors, and behind them if too few are left to split off.
        resting: bytes of such gaps while only the weights exist.
        work: the operations of one pass.
        read: bytes of its files, if it is loaded only for that pass.
    """

    weights: int
    transient: int
    work: Work = field(default_factory=Work)
    read: int = 0
    gaps: int = 0
    resting: int = 0

    @property
    def held(self) -> int:
        """Bytes that tensors take."""
        return self.weights + self.transient

    @property
    def total(self) -> int:
        """Bytes that the allocator holds of the device."""
        return self.held + self.gaps


def as_skeleton(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module on the meta device, as if it had been loaded in this precision."""
    module = module.to(META).requires_grad_(False).eval()
    for tensor in held_by(module):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return module


@torch.no_grad()
def count_pass(module: nn.Module, run: Callable[[], Any]) -> Footprint:
    """What `run` needs, a pass without a gradient through a module on the meta device."""
    with fused_attention(), LiveMemory() as memory:
        run()
    return footprint_of(storage_sizes(held_by(module)), memory)


def footprint_of(held: Sequence[int], memory: LiveMemory) -> Footprint:
    """The footprint of tensors of these bytes that stay, and of a pass that was followed while they existed."""
    gaps, resting = gaps_of(held, [memory.events]), gaps_of(held, [])
    return Footprint(sum(held), memory.peak, memory.work, gaps=gaps, resting=resting)


def count_encode(vae: AutoencoderKL, width: int, height: int, dtype: torch.dtype) -> Footprint:
    """What encoding one picture of this size in pixels needs; the VAE is on the meta device."""
    pixels = torch.zeros(1, 3, height, width, dtype=dtype, device=META)
    return count_pass(vae, lambda: vae.encode(pixels).latent_dist.std)


def count_decode(vae: AutoencoderKL, latents: tuple[int, int, int], dtype: torch.dtype) -> Footprint:
    """What decoding one picture from latents (C, h, w) needs."""
    noise = torch.zeros(1, *latents, dtype=dtype, device=META)
    return count_pass(vae, lambda: vae.decode(noise).sample)
