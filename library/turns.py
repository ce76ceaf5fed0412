"""Which terms of an objective a batch has, and how much they count when so much of the stage is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from library.chance import generator_for

BEGIN = 0.1
"""The share of a growing weight that a stage begins with."""


@dataclass(frozen=True)
class Turns:
    """Terms that take turns: each batch has one of them, and every round of as many batches has each of them once.

    The order is drawn again for every round, so that no term always meets the same pictures.

    Args:
        names: of the terms.
        seed, stage: what the order follows from.
    """

    names: frozenset[str]
    seed: int
    stage: str

    def of_batch(self, number: int, names: Sequence[str]) -> str:
        """The one of these names whose turn it is in the batch of that number."""
        turn, place = divmod(number, len(names))
        order = torch.randperm(len(names), generator=generator_for(self.seed, self.stage, "turns", turn))
        return names[int(order[place])]


@dataclass(frozen=True)
class Growing:
    """A weight that grows evenly over a stage, from a tenth of what it is at its end.

    Args:
        end: the weight at the last step.
    """

    end: float

    def at(self, progress: float) -> float:
        """The weight when so much of the stage is done, 0 to 1."""
        return self.end * (BEGIN + (1 - BEGIN) * progress)


Weight = float | Growing
"""How much a term counts."""


def at(weight: Weight, progress: float) -> float:
    """A weight when so much of the stage is done, 0 to 1."""
    return weight.at(progress) if isinstance(weight, Growing) else weight
