"""Which terms of an objective a batch has, and their weights at each point of the stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from library.chance import generator_for

BEGIN = 0.1
"""The share of a growing weight at the start of a stage."""


@dataclass(frozen=True)
class Turns:
    """Terms that take turns: each batch has one of them, and every round of N batches has each of the N terms once.

    The order is drawn again for every round, so that no term always gets the same pictures.

    Args:
        names: of the terms.
        seed, stage: what the order follows from.
    """

    names: frozenset[str]
    seed: int
    stage: str

    def of_batch(self, number: int, names: Sequence[str]) -> str:
        """The name whose turn it is in the batch of that number."""
        turn, place = divmod(number, len(names))
        order = torch.randperm(len(names), generator=generator_for(self.seed, self.stage, "turns", turn))
        return names[int(order[place])]


@dataclass(frozen=True)
class Growing:
    """A weight that grows linearly over a stage, from a tenth of its final value.

    Args:
        end: the weight at the last step.
    """

    end: float

    def at(self, progress: float) -> float:
        """The weight at this progress of the stage, 0 to 1."""
        return self.end * (BEGIN + (1 - BEGIN) * progress)


Weight = float | Growing
"""The weight of a term."""


def at(weight: Weight, progress: float) -> float:
    """A weight at this progress of the stage, 0 to 1."""
    return weight.at(progress) if isinstance(weight, Growing) else weight
