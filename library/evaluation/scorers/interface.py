"""What the evaluation asks of a scorer, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from PIL.Image import Image
from torch import Tensor


@dataclass(frozen=True)
class Identity:
    """Which weights a number comes from; printed beside it.

    Attributes:
        checkpoint: the weights' usual name, such as "openai/clip-vit-base-patch32".
        sha256: of each file that was read.
        stands_in_for: what a user would expect instead, where this is not it; None for the real thing.
    """

    name: str
    checkpoint: str
    sha256: dict[str, str] = field(default_factory=dict)
    stands_in_for: str | None = None

    @property
    def label(self) -> str:
        """As it is in tables."""
        return f"{self.checkpoint} (stand-in for {self.stands_in_for})" if self.stands_in_for else self.checkpoint


class Scorer(Protocol):
    """Anything that looks at pictures."""

    identity: Identity


@runtime_checkable
class ImageEncoder(Scorer, Protocol):
    """Turns pictures into vectors whose directions can be compared."""

    def embed(self, images: Sequence[Image]) -> Tensor:
        """One vector a picture, (N, D) float32 on the CPU, of any length."""


@runtime_checkable
class TextImageScorer(Scorer, Protocol):
    """Says how well a picture fits a text."""

    def score(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        """One number for each picture with its text, (N,) float32 on the CPU; higher fits better."""


@runtime_checkable
class MaskGenerator(Scorer, Protocol):
    """Finds the regions of a picture, without names."""

    def masks(self, image: Image) -> Tensor:
        """(K, h, w) bool on the CPU, of a size that depends on the picture's alone; K may be 0."""


@runtime_checkable
class SubjectFinder(Scorer, Protocol):
    """Finds the one thing that a picture is about."""

    def subject(self, image: Image) -> Tensor:
        """(H, W) bool on the CPU, of the picture's size."""


@runtime_checkable
class PairDistance(Scorer, Protocol):
    """Says how different two pictures look."""

    def distance(self, one: Sequence[Image], other: Sequence[Image]) -> Tensor:
        """One number a pair, (N,) float32 on the CPU; 0 for equal pictures of equal size."""
