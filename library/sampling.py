"""Drawing pictures: Euler steps along the flow, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from library.models.interface import PromptBatch


def initial_noise(shape: tuple[int, int, int], seed: int) -> Tensor:
    """Noise (C, h, w), float32: the same on every machine, drawn on the CPU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def sample(
    velocity: Callable[[Tensor, Tensor, list[PromptBatch]], Tensor],
    scheduler: Any,
    noise: Tensor,
    prompts: PromptBatch,
    null: PromptBatch,
    steps: int,
    guidance_scale: float,
) -> Tensor:
    """Latents (B, C, h, w), float32, of pictures of the prompts.

    Args:
        velocity: of noisy latents, noise levels and the prompts of the parts of the batch, one after the other.
        scheduler: a fresh diffusers scheduler; its sigmas and steps are used.
        noise: (B, C, h, w).
        null: the empty prompts that guidance pushes away from, one a row.
        guidance_scale: 1 does without them.
    """
    scheduler.set_timesteps(steps)
    x_t, guided = noise, guidance_scale > 1
    for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        parts = [null, prompts] if guided else [prompts]
        rows = torch.cat([x_t] * len(parts))
        v = velocity(rows, sigma.float().expand(len(rows)), parts)
        if guided:
            v_null, v_prompt = v.chunk(2)
            v = v_null + guidance_scale * (v_prompt - v_null)
        x_t = scheduler.step(v.to(x_t.device), timestep, x_t, return_dict=False)[0]
    return x_t
