"""How well a model sees a trigger: how far the word moves what it predicts for the class, against words for colours.

A LoRA tells a concept from its class by the trigger alone. Where the text encoders give hardly anything for the word,
there is little for it to go by.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

import torch

from library.chance import generator_for
from library.config.dataset import PLACEHOLDER, Concept
from library.dual_branch_scheduler import PRETRAINED_BRANCH
from library.models.interface import Progress, PromptBatch
from library.parts.parts import Attached, Opened
from library.prompts import without_concept

COLOURS = ("red", "green", "blue")
"""Words that every model knows."""
SUGGESTED = ("ohwx", "qx", "zwx", "vbk")
"""Rare words that may take a trigger's place."""
NOISES = 4
"""Number of pictures of pure noise, as at the start of sampling."""
MOST_PIXELS = 256
"""Longest side of them, in pixels."""
HARDLY = 0.15
"""A trigger that moves the prediction less than this share of what a colour does is hardly seen."""


@dataclass(frozen=True)
class Visibility:
    """How far words move the pretrained velocity of a concept's class, as shares of its length.

    Args:
        trigger, colour: the concept's own, and the mean of some colours.
        others: rare words, by how far each moves it.
    """

    trigger: float
    colour: float
    others: dict[str, float]

    @property
    def hardly(self) -> bool:
        """Whether the model hardly sees the trigger."""
        return self.trigger < HARDLY * self.colour

    @property
    def best(self) -> str:
        """The rare word that the model sees best."""
        return max(self.others, key=lambda word: self.others[word])


def texts_for(concept: Concept) -> dict[str, str]:
    """The prompt for each word, and under "" the one without a word."""
    words = dict.fromkeys([concept.trigger, *COLOURS, *SUGGESTED])
    return {"": without_concept(concept.target, concept)} | {
        word: concept.target.replace(PLACEHOLDER, word) for word in words
    }


def measured_visibility(opened: Opened, size: tuple[int, int], progress: Progress = iter) -> dict[str, Visibility]:
    """Of each concept's trigger, by its name. Encodes a few texts, loads the transformer and makes a few passes.

    Args:
        size: width and height of the run's pictures; larger ones are not needed here.
    """
    opened.texts.prepare([text for one in opened.concepts for text in texts_for(one).values()], progress)
    parts, multiple = opened.attach(), opened.model.size_multiple
    side = max(multiple, min(MOST_PIXELS, *size) // multiple * multiple)
    return {one.name: _visibility(parts, one, side) for one in opened.concepts}


@torch.no_grad()
def _visibility(parts: Attached, concept: Concept, side: int) -> Visibility:
    shape, generator = parts.model.latent_shape(side, side), generator_for(0, "visibility", concept.name)
    noise = torch.randn(NOISES, *shape, generator=generator)
    texts = texts_for(concept)

    def velocity(text: str) -> torch.Tensor:
        prompts = PromptBatch.of([parts.texts[text]] * NOISES, [None] * NOISES)
        return parts.velocity(PRETRAINED_BRANCH, noise, torch.ones(NOISES), [prompts]).flatten(1)

    plain = velocity(texts[""])
    moved = {
        word: float(((velocity(text) - plain).norm(dim=1) / plain.norm(dim=1)).mean())
        for word, text in texts.items()
        if word
    }
    rare = {word: moved[word] for word in SUGGESTED}
    return Visibility(moved[concept.trigger], mean(moved[one] for one in COLOURS), rare)
