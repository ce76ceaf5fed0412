"""Pictures of the bench: the same prompts from the same noise, from the pretrained model and from students."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.method.concepts import Probe
from library.chance import generator_for
from library.drawing.drawn import draw_latents
from library.drawing.sampling import initial_noise
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.flow import interpolate
from library.models.interface import PromptBatch
from library.parts.parts import Attached
from library.prompts import NULL_PROMPT
from tools.pocket.stage import autocast

STEPS = 10
GUIDANCE = 4.0
AT_ONCE = 24
DRIFT_SIGMAS = (0.3, 0.6, 0.9)


def texts_of(probes: Sequence[Probe]) -> list[str]:
    """Every text that drawing them needs."""
    return list(dict.fromkeys([NULL_PROMPT, *(text for probe in probes for text in (probe.text, probe.base))]))


def draw(
    parts: Attached, branch: Branch, texts: Sequence[str], seeds: Sequence[int], side: int
) -> tuple[Tensor, Tensor]:
    """Pictures of these texts: latents (N, C, h, w) and pixels (N, 3, side, side) in -1..1, float32.

    In bfloat16 where the machine is quick at it; the pretrained model and students alike.
    """
    shape, drawn = parts.model.latent_shape(side, side), []
    with autocast(parts.model.device.type):
        for begin in range(0, len(texts), AT_ONCE):
            some = texts[begin : begin + AT_ONCE]
            noise = torch.stack([initial_noise(shape, seed) for seed in seeds[begin : begin + AT_ONCE]])
            drawn.append(draw_latents(parts, branch, some, noise, STEPS, GUIDANCE))
        latents = torch.cat(drawn)
        return latents, parts.model.decode(latents)


@torch.no_grad()
def drift(parts: Attached, branch: Branch, probes: Sequence[Probe], latents: Tensor) -> list[float]:
    """||v_branch - v_pretrained|| / ||v_pretrained|| for each prompt without the concept, mean over noise levels.

    Args:
        latents: the pretrained model's pictures of the probes, (N, C, h, w).
    """
    prompts = PromptBatch.of([parts.texts[probe.text] for probe in probes], [None] * len(probes))
    total = torch.zeros(len(probes))
    for sigma in DRIFT_SIGMAS:
        noise = torch.randn(latents.shape, generator=generator_for(0, "drift", str(sigma)))
        levels = torch.full((len(probes),), sigma)
        x_t = interpolate(latents, noise, levels)
        before = parts.velocity(PRETRAINED_BRANCH, x_t, levels, [prompts])
        now = parts.velocity(branch, x_t, levels, [prompts])
        total += (now - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    return (total / len(DRIFT_SIGMAS)).tolist()


@torch.no_grad()
def guidance_inside(
    parts: Attached, guide: Branch, prompts: Sequence[tuple[str, str | None]], latents: Tensor, masks: Tensor
) -> dict[str, float]:
    """Where R(target) is long, on the pretrained model's pictures: is it about the subject, or about all around it?

    Args:
        guide: the extractor.
        prompts: target and what it is measured against, each with the concept whose extractor looks at it.
        latents, masks: of the pictures, (N, C, h, w), and of the subject in them, (N, h, w), 0 to 1.

    Returns:
        "r_inside": the share of ||R||^2 that lies inside the subject; "area": the share of the picture that it takes.
    """
    inside = total = torch.zeros(())
    for sigma in DRIFT_SIGMAS:
        noise = torch.randn(latents.shape, generator=generator_for(0, "guidance", str(sigma)))
        levels = torch.full((len(latents),), sigma)
        x_t = interpolate(latents, noise, levels)
        target, against = (
            parts.velocity(
                guide, x_t, levels, [PromptBatch.of([parts.texts[text]] * len(latents), [concept] * len(latents))]
            )
            for text, concept in prompts
        )
        length = (target - against).square().sum(1)
        inside, total = inside + (length * masks).sum(), total + length.sum()
    return {"r_inside": float(inside / total), "area": float(masks.mean())}
