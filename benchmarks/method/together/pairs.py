"""Two concepts in one prompt: two subjects beside each other, or a subject in a style; and whose colours are on whom.

This world has one thing in each picture, so two subjects can't both be drawn as taught. What can be seen is whether the
one that comes out is one of the two, or a mixture.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from benchmarks.method.concepts import BenchConcept, Probe
from tools.pocket.captions import caption
from tools.pocket.scenery import BACKGROUNDS
from tools.pocket.scorer import Look

PROMPTS = 12
"""Of each pair."""
COLOURED = ("colour", "marking_colour", "socks")
"""What of a creature has a colour of its own, by the judge's questions."""


@dataclass(frozen=True)
class Pair:
    """Two concepts that are asked for at once.

    Args:
        one: a subject.
        other: a subject or a style.
    """

    one: BenchConcept
    other: BenchConcept

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"{self.one.name} {'and' if self.other.kind == 'subject' else 'in'} {self.other.name}"

    @property
    def both(self) -> tuple[BenchConcept, BenchConcept]:
        """The two."""
        return self.one, self.other

    def probes(self) -> list[Probe]:
        """The prompts that name both; always the same, and never where the photos of one of them were."""
        rng, probes = random.Random(f"pair {self.name}"), []
        known = {one.trap.get("background") for one in self.both}
        for k in range(PROMPTS):
            asked = {"background": rng.choice([word for word in BACKGROUNDS if word not in known])}
            triggers = self.one.trigger, self.other.trigger
            probes.append(
                Probe("concept", self._text(asked, *triggers), self._text(asked, None, None), asked, 3000 + k)
            )
        return probes

    def _text(self, asked: Mapping[str, str], first: str | None, second: str | None) -> str:
        scene = replace(self.one.scenes[0], creature=None, **asked)
        if self.other.kind == "style":
            text = caption(scene, {"size", *asked}, trigger=first)
            return f"{text} in {second} style" if second else text
        return f"{caption(scene, set(), trigger=first)} and {caption(scene, set(asked), trigger=second)}"


def pairs_of(concepts: Sequence[BenchConcept]) -> list[Pair]:
    """Every two of the concepts, a style second; there is one style at most."""
    ordered = sorted(concepts, key=lambda one: one.kind == "style")
    return [Pair(one, other) for one, other in combinations(ordered, 2)]


def others_colours(look: Look, own: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> Tensor:
    """How likely a creature has, in places of its colours, those that others have there; mean over the places, (N,).

    Args:
        own, others: attributes of the concept that was asked for, and of the other ones.
    """
    places = []
    for question in COLOURED:
        foreign = {other[question] for other in others} - {own[question]}
        places.append(sum((look.probability(question, colour) for colour in sorted(foreign)), torch.zeros(())))
    return torch.stack(places).mean(0)


def mixed_colours(look: Look, one: Mapping[str, str], other: Mapping[str, str]) -> Tensor:
    """How likely a creature has a colour of the one in one place and of the other in another; their mean, (N,)."""
    ways = [(first, second) for first in COLOURED for second in COLOURED if first != second]
    return torch.stack([look.probability(a, one[a]) * look.probability(b, other[b]) for a, b in ways]).mean(0)
