"""Drawing pictures: Euler steps along the flow, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from library.config.sample_settings import SampleSettings
from library.models.interface import PromptBatch

Schedule = Literal["normal", "simple", "sgm_uniform"]
LEVELS = 1000
"""Noise levels that a model was trained with; ComfyUI keeps them in a table."""


@dataclass(frozen=True)
class SkipLayerGuidance:
    """Pushes away from what the model predicts without some of its blocks (skip-layer guidance, as in ComfyUI).

    Args:
        layers: the blocks to leave out.
        scale: how strongly. 0 turns it off.
        start, stop: the part of the way from noise to picture where it acts.
    """

    layers: Sequence[int]
    scale: float
    start: float
    stop: float

    @classmethod
    def of(cls, samples: SampleSettings) -> SkipLayerGuidance:
        """From the settings."""
        return cls(
            samples.skip_guidance_layers,
            samples.skip_layer_guidance_scale,
            samples.skip_layer_guidance_start,
            samples.skip_layer_guidance_stop,
        )

    def acts_at(self, sigma: float, shift: float) -> bool:
        """Whether a noise level is in that part."""
        return self.scale > 0 and shifted(1 - self.stop, shift) <= sigma <= shifted(1 - self.start, shift)


def shifted(level: float, shift: float) -> float:
    """A noise level moved towards noise; a shift of 1 changes nothing."""
    return shift * level / (1 + (shift - 1) * level)


def noise_levels(steps: int, schedule: Schedule, shift: float) -> list[float]:
    """The noise levels of each step, from 1 down and before they are shifted, as ComfyUI's schedules of that name.

    "normal" is diffusers' own: even steps, the last of them almost at 0. "sgm_uniform" and "simple" leave a whole step
    to the end; "simple" takes its levels from a table of 1000.
    """
    if schedule == "simple":
        return [(LEVELS - int(step * LEVELS / steps)) / LEVELS for step in range(steps)]
    points = steps if schedule == "normal" else steps + 1
    return torch.linspace(1, shifted(1 / LEVELS, shift), points)[:steps].tolist()


def initial_noise(shape: tuple[int, int, int], seed: int) -> Tensor:
    """Noise (C, h, w), float32: the same on every machine, drawn on the CPU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def sample(
    velocity: Callable[..., Tensor],
    scheduler: Any,
    noise: Tensor,
    prompts: PromptBatch,
    null: PromptBatch,
    steps: int,
    guidance_scale: float,
    schedule: Schedule = "normal",
    skipping: SkipLayerGuidance | None = None,
) -> Tensor:
    """Latents (B, C, h, w), float32, of pictures of the prompts.

    Args:
        velocity: of noisy latents, noise levels and the prompts of the parts of the batch, one after the other; and of
            the blocks to leave out, where `skipping` asks for it.
        scheduler: a fresh diffusers scheduler; its shift and steps are used.
        noise: (B, C, h, w).
        null: the empty prompts that guidance pushes away from, one a row.
        guidance_scale: 1 does without them.
        schedule: which noise levels the steps have.
        skipping: skip-layer guidance; None: without.
    """
    scheduler.set_timesteps(sigmas=noise_levels(steps, schedule, scheduler.shift))
    x_t, guided = noise, guidance_scale > 1
    for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        parts = [null, prompts] if guided else [prompts]
        rows = torch.cat([x_t] * len(parts))
        v = v_prompt = velocity(rows, sigma.float().expand(len(rows)), parts)
        if guided:
            v_null, v_prompt = v.chunk(2)
            v = v_null + guidance_scale * (v_prompt - v_null)
        if skipping is not None and skipping.acts_at(float(sigma), scheduler.shift):
            v_skipped = velocity(x_t, sigma.float().expand(len(x_t)), [prompts], skipping.layers)
            v = v + skipping.scale * (v_prompt - v_skipped)
        x_t = scheduler.step(v.to(x_t.device), timestep, x_t, return_dict=False)[0]
    return x_t
