"""Pictures of the bench: the same prompts from the same noise, from the pretrained model and from students."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.method.concepts import Probe
from library.chance import generator_for
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.flow import interpolate
from library.models import PromptBatch
from library.prompts import NULL_PROMPT
from library.sampling import initial_noise, sample
from library.training.parts import Parts

STEPS = 10
GUIDANCE = 4.0
AT_ONCE = 24
DRIFT_SIGMAS = (0.3, 0.6, 0.9)


def texts_of(probes: Sequence[Probe]) -> list[str]:
    """Every text that drawing them needs."""
    return list(dict.fromkeys([NULL_PROMPT, *(text for probe in probes for text in (probe.text, probe.base))]))


def draw_latents(parts: Parts, branch: Branch, texts: Sequence[str], seeds: Sequence[int], side: int) -> Tensor:
    """Latents (N, C, h, w) of pictures of these texts."""
    shape, drawn = parts.model.latent_shape(side, side), []
    for begin in range(0, len(texts), AT_ONCE):
        some = texts[begin : begin + AT_ONCE]
        none = [None] * len(some)
        drawn.append(
            sample(
                lambda x, sigma, batches: parts.velocity(branch, x, sigma, batches),
                parts.model.sampling_scheduler(),
                torch.stack([initial_noise(shape, seed) for seed in seeds[begin : begin + AT_ONCE]]),
                PromptBatch.of([parts.texts[text] for text in some], none),
                PromptBatch.of([parts.texts[NULL_PROMPT]] * len(some), none),
                STEPS,
                GUIDANCE,
            )
        )
    return torch.cat(drawn)


@torch.no_grad()
def drift(parts: Parts, branch: Branch, probes: Sequence[Probe], latents: Tensor) -> list[float]:
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
