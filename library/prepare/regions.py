"""Where the class is in a picture, found by the pretrained model itself: the mask of DiffEdit (arXiv 2210.11427).

The velocities for the class word and for the empty prompt differ most where the class is. Averaged over noise levels
and draws of noise, and split in two by Otsu's threshold, that is a mask.
"""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from library.chance import generator_for
from library.config.dataset import Concept
from library.dual_branch_scheduler import PRETRAINED_BRANCH
from library.flow import interpolate
from library.models.interface import PromptBatch
from library.parts.parts import Attached
from library.prepare.class_states import class_text
from library.prompts import NULL_PROMPT

SIGMAS = (0.3, 0.5, 0.7)
"""Noise levels at which the two velocities are compared."""
NOISES = 2
"""Draws of noise at each of them."""
PASSES = 2 * NOISES * len(SIGMAS)
"""Passes needed to find a region."""
PLACES_OF_EDGE = 32
"""A mask grows by one place on each side per N places of the picture's shorter side."""


@torch.no_grad()
def class_region(parts: Attached, concept: Concept, latents: Tensor) -> Tensor:
    """1 where the class is in a picture and 0 elsewhere, (1, h, w), from the cache or found now.

    Args:
        latents: (C, h, w).
    """
    key = {
        "latents": hashlib.sha256(latents.contiguous().numpy().tobytes()).hexdigest(),
        "class": class_text(concept),
        "transformer": parts.model.fingerprint(),
        "text": parts.model.text_fingerprint(),
    }
    return parts.cache.get("region", key, lambda: {"region": _region(parts, concept, latents)})["region"]


def _region(parts: Attached, concept: Concept, latents: Tensor) -> Tensor:
    texts = [class_text(concept), NULL_PROMPT]
    prompts = [PromptBatch.of([parts.texts[text]] * NOISES, [None] * NOISES) for text in texts]
    images, total = latents.expand(NOISES, *latents.shape), torch.zeros(1, *latents.shape[1:])
    for level in SIGMAS:
        noise = torch.randn(images.shape, generator=generator_for(0, "region", str(level)))
        sigma = torch.full((len(texts) * NOISES,), level)
        x_t = interpolate(images, noise, sigma[:NOISES]).repeat(len(texts), 1, 1, 1)
        of_class, of_null = parts.velocity(PRETRAINED_BRANCH, x_t, sigma, prompts).cpu().chunk(2)
        total += (of_class - of_null).square().sum((0, 1)).unsqueeze(0)
    places = min(total.shape[1:]) // PLACES_OF_EDGE
    return F.max_pool2d(split(total.sqrt())[None], 2 * places + 1, 1, places)[0]


def split(values: Tensor) -> Tensor:
    """1 for the high ones and 0 for the low ones: Otsu's threshold, which sets the two groups' means furthest apart."""
    ordered = values.flatten().sort().values
    below = torch.arange(1, len(ordered))
    low = ordered.cumsum(0)[:-1]
    means_apart = (ordered.sum() - low) / (len(ordered) - below) - low / below
    best = (below * (len(ordered) - below) * means_apart.square()).argmax()
    return (values > ordered[best]).float()
