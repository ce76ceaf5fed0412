"""What can be seen in a picture without a model: its likeness to others, its sharpness, its surroundings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from library.data.images import open_image
from library.fingerprint import of_file

LOOKED_AT = 384
"""Longest side, in pixels, at which sharpness is measured, so that large and small pictures compare."""
HASH_SIDE = 8
NEAR = 5
"""Of 64 bits of two pictures' hashes, at most so many differ where the pictures are nearly the same."""
GRID, RING = 10, 2
"""Cells that a picture is divided into each way, and how many of them from the edge count as surroundings."""


@dataclass(frozen=True)
class Look:
    """What is seen in one picture."""

    path: Path

    @cached_property
    def content(self) -> str:
        """Equal for equal files."""
        return of_file(self.path)

    @cached_property
    def _image(self) -> Image.Image:
        image = open_image(self.path)
        image.thumbnail((LOOKED_AT, LOOKED_AT))
        return image

    @cached_property
    def hash(self) -> np.ndarray:
        """64 bits, whether brightness falls or rises from cell to cell; alike for alike pictures."""
        cells = np.asarray(self._image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
        return (np.diff(cells, axis=1) > 0).flatten()

    @cached_property
    def sharpness(self) -> float:
        """Variance of the Laplacian of the grey picture, 0 to 255: low where there is no fine detail."""
        grey = np.asarray(self._image.convert("L"), np.float32)
        if min(grey.shape) < 3:
            return 0.0
        around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        return float((around - 4 * grey[1:-1, 1:-1]).var())

    @cached_property
    def surroundings(self) -> np.ndarray:
        """Mean colours of the cells along the edge, (cells, 3), 0 to 1."""
        cells = np.asarray(self._image.resize((GRID, GRID), Image.Resampling.BOX), np.float32) / 255
        inner = np.zeros((GRID, GRID), bool)
        inner[RING:-RING, RING:-RING] = True
        return cells[~inner]


def nearly_same(one: Look, two: Look) -> bool:
    """Whether two pictures show nearly the same; plain surfaces, whose hashes say nothing, never do."""
    if not one.hash.any() or not two.hash.any():
        return False
    return int((one.hash != two.hash).sum()) <= NEAR


def surroundings_differ(looks: list[Look]) -> float:
    """Mean difference of the colours along the edges between pictures, 0 where all are alike."""
    rings = np.stack([look.surroundings for look in looks])
    pairs = [np.abs(rings[i] - rings[j]).mean() for i in range(len(rings)) for j in range(i)]
    return float(np.mean(pairs))
