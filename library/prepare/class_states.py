"""The start of a concept's vectors: the class word's own hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from library.chance import generator_for
from library.config.dataset import Concept
from library.data.latents import Latents
from library.data.pictures import Picture
from library.dual_branch_scheduler import PRETRAINED_BRANCH
from library.files import fingerprint
from library.flow import LEVELS_OVER_ALL, interpolate
from library.models.interface import PromptBatch
from library.parts.parts import Attached
from library.prompts import derive, triggers_in

PICTURES_LOOKED_AT = 4
"""Most pictures of a concept over which the states are averaged."""


def class_text(concept: Concept) -> str:
    """A text that holds the concept's class word: the target without [V], or the word alone."""
    text = derive(concept.target, concept, "target").class_only
    return text if triggers_in(text, concept.class_word) else concept.class_word


def class_states(parts: Attached, concept: Concept, latents: Tensor) -> Tensor:
    """What the concept's vectors start from: the class word's hidden states at the input of each block.

    Averaged over noise levels, pictures and the word's own tokens; one mean for the places of each text stream. They
    come from the cache, or are found now.

    Args:
        latents: of some of the concept's pictures, (B, C, h, w).

    Returns:
        (L, tokens, width), float32; (1, tokens, width) where all blocks share it or only the first gets one.
    """
    key = {
        "latents": fingerprint.of_tensors({"latents": latents}),
        "concept": concept.name,
        "class": [class_text(concept), concept.class_word],
        "tokens": parts.layouts[concept.name].counts,
        "seed": parts.settings.optimizer.seed,
        "transformer": parts.model.fingerprint(),
        "text": parts.model.text_fingerprint(),
    }
    vectors = parts.cache.get("class", key, lambda: {"vectors": _of_each_block(parts, concept, latents)})["vectors"]
    modes = {"per_block": vectors, "shared": vectors.mean(0, keepdim=True), "first_block": vectors[:1]}
    return modes[parts.settings.concept_embeddings.concept_embeddings]


@torch.no_grad()
def _of_each_block(parts: Attached, concept: Concept, latents: Tensor) -> Tensor:
    """The states of every block, (L, tokens, width), float32 on the CPU."""
    text, layout, model = class_text(concept), parts.layouts[concept.name], parts.model
    places = model.token_positions(text, triggers_in(text, concept.class_word)[0])
    prompts = PromptBatch.of([parts.texts[text]] * len(latents), [None] * len(latents))
    generator = generator_for(parts.settings.optimizer.seed, "class states", concept.name)
    means = []
    for level in LEVELS_OVER_ALL:
        sigma = torch.full((len(latents),), level)
        x_t = interpolate(latents, torch.randn(latents.shape, generator=generator), sigma)
        with parts.injector.watching() as seen:
            parts.velocity(PRETRAINED_BRANCH, x_t, sigma, [prompts])
        means.append(torch.stack([states.float().mean(0) for states in seen]))
    states = sum(means[1:], means[0]) / len(LEVELS_OVER_ALL)
    kinds = [
        states[:, own or places[0]].mean(1, keepdim=True).expand(-1, count, -1)
        for own, count in zip(places, layout.counts, strict=True)
        if count
    ]
    return torch.cat(kinds, dim=1).cpu()


def latents_of(concept: Concept, pictures: Sequence[Picture], latents: Latents) -> Tensor:
    """Latents of a few of a concept's pictures, all of one size, (B, C, h, w)."""
    shown = [one for one in pictures if one.concept is concept and not one.subset.is_reg]
    alike = [picture for picture in shown if picture.size == shown[0].size]
    return torch.stack([latents.mean(picture) for picture in alike[:PICTURES_LOOKED_AT]])
