"""What a step predicts, and what is known about the pictures that it is predicted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

STUDENT, EXTRACTOR, PRETRAINED = "student", "extractor", "pretrained"
"""The branches: whose weights predict. For guidance, the extractor may run without its LoRA."""
WORD = "word"
"""The student without its vectors: only its LoRA and the trigger word."""
GUIDE = "guide"
"""The extractor as it is used for R(target)."""

COMPLETE, BASE, TARGET, CLASS, NULL = "complete", "base", "target", "class", "null"
"""The prompts of a reference picture."""
REPLAY, REPLAY_COMPLETE = "replay", "replay_complete"
"""The prompts of a replayed image: the one it was drawn from, and the same with [V]."""
REPLAYED = frozenset({REPLAY, REPLAY_COMPLETE})


@dataclass(frozen=True)
class Prediction:
    """One velocity: what a branch predicts for a prompt."""

    branch: str
    prompt: str


@dataclass(frozen=True)
class Reading:
    """A prediction as a term uses it: with its gradient or without."""

    prediction: Prediction
    gradient: bool


def learned(branch: str, prompt: str) -> Reading:
    """A prediction whose gradient is used."""
    return Reading(Prediction(branch, prompt), gradient=True)


def given(branch: str, prompt: str) -> Reading:
    """A prediction that is used without its gradient."""
    return Reading(Prediction(branch, prompt), gradient=False)


@dataclass(frozen=True)
class Truth:
    """What is known about the pictures that velocities are predicted for.

    Args:
        target: the flow's own velocity, (B, C, H, W).
        sigma: noise levels, (B,).
        emphasis: weight of each place in the concept loss, (B, 1, H, W). None: all equal.
        shows_concept: whether each picture's complete prompt names the concept, (B,). None: all do.
        anchored: whether the anchor applies to each picture, (B,). None: to all.
        region: 1 where the class is and 0 elsewhere, (B, 1, H, W). None: not needed.
    """

    target: Tensor
    sigma: Tensor
    emphasis: Tensor | None = None
    shows_concept: Tensor | None = None
    anchored: Tensor | None = None
    region: Tensor | None = None

    @property
    def outside(self) -> Tensor:
        """1 where the class is not, (B, 1, H, W).

        Raises:
            ValueError: there are no regions.
        """
        if self.region is None:
            raise ValueError("these images have no regions")
        return 1 - self.region


@dataclass(frozen=True)
class Predicted:
    """What a pass makes of a prediction.

    Args:
        velocity: (B, C, H, W), float32.
        distance: of the text's states from the vectors that the branch compares them with, (B,), float32; the mean over
            blocks, squared, in units of the vectors' size. 0 where nothing is compared.
    """

    velocity: Tensor
    distance: Tensor

    def split(self, sizes: list[int]) -> list[Predicted]:
        """The same for each part of the rows."""
        parts = zip(self.velocity.split(sizes), self.distance.split(sizes), strict=True)
        return [Predicted(velocity, distance) for velocity, distance in parts]


class Velocities:
    """The predictions of one step, (B, C, H, W) float32 each, and what is known about their pictures.

    Args:
        reference: of the user's pictures.
        replay: of the replayed pictures, if the step has any.
    """

    def __init__(
        self, predictions: Mapping[Prediction, Predicted], reference: Truth, replay: Truth | None = None
    ) -> None:
        self._predictions = predictions
        self._reference = reference
        self._replay = replay

    def truth(self, reading: Reading) -> Truth:
        """What is known about the pictures that a prediction is for.

        Raises:
            KeyError: the step has no replayed pictures.
        """
        if reading.prediction.prompt not in REPLAYED:
            return self._reference
        if self._replay is None:
            raise KeyError(reading.prediction.prompt)
        return self._replay

    def __getitem__(self, reading: Reading) -> Tensor:
        velocity = self._predictions[reading.prediction].velocity
        return velocity if reading.gradient else velocity.detach()

    def distance(self, reading: Reading) -> Tensor:
        """How far states are from the vectors that the prediction's branch compares them with, (B,)."""
        distance = self._predictions[reading.prediction].distance
        return distance if reading.gradient else distance.detach()
