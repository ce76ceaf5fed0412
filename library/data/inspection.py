"""What a picture tells without a model: its similarity to others, its sharpness, its surroundings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from library.data.images import has_several, open_image
from library.files.fingerprint import of_bytes
from library.files.picture_files import read_bytes

LOOKED_AT = 384
"""Longest side, in pixels, at which sharpness is measured, so that large and small pictures compare."""
HASH_SIDE = 8
NEAR = 5
"""Two pictures are nearly the same if at most N of the 64 bits of their hashes differ."""
GRID, RING = 10, 2
"""Cells per side of a picture, and how many from the edge count as surroundings."""


@dataclass(frozen=True)
class Look:
    """What one picture shows.

    Attributes:
        hash: 64 bits, whether brightness falls or rises from cell to cell; similar for similar pictures.
        sharpness: variance of the Laplacian of the grey picture, 0 to 255: low where there is no fine detail.
        surroundings: mean colours of the cells along the edge, (cells, 3), 0 to 1.
        has_several: whether it is the first of several in its file.
    """

    hash: np.ndarray
    sharpness: float
    surroundings: np.ndarray
    has_several: bool


def look_at(path: Path) -> Look:
    """Examines one picture; its pixels are not kept.

    Raises:
        DataError: it can't be read.
    """
    image = open_image(path)
    image.thumbnail((LOOKED_AT, LOOKED_AT))
    grey = image.convert("L")
    cells = np.asarray(grey.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
    return Look((np.diff(cells, axis=1) > 0).flatten(), _sharpness(grey), _surroundings(image), has_several(path))


def _sharpness(grey: Image.Image) -> float:
    pixels = np.asarray(grey, np.float32)
    if min(pixels.shape) < 3:
        return 0.0
    around = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]
    return float((around - 4 * pixels[1:-1, 1:-1]).var())


def _surroundings(image: Image.Image) -> np.ndarray:
    cells = np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX), np.float32) / 255
    inner = np.zeros((GRID, GRID), bool)
    inner[RING:-RING, RING:-RING] = True
    return cells[~inner]


def same_files(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Identical files, each with the first of its kind; only files of equal length are read."""
    of_length: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        of_length[path.stat().st_size].append(path)
    pairs = []
    for alike in of_length.values():
        first: dict[str, Path] = {}
        for path in alike if len(alike) > 1 else ():
            content = of_bytes(read_bytes(path))
            if content in first:
                pairs.append((first[content], path))
            first.setdefault(content, path)
    return pairs


def nearly_same(looks: Sequence[Look]) -> list[tuple[int, int]]:
    """Indices of pictures that show nearly the same, without plain surfaces, whose hashes mean nothing."""
    hashes = np.stack([look.hash for look in looks])
    near = (hashes[:, None] != hashes).sum(2) <= NEAR
    varied = np.asarray(hashes.any(1))
    near &= varied[:, None] & varied
    return [(int(one), int(two)) for one, two in np.argwhere(np.triu(near, 1))]


def surroundings_differ(looks: Sequence[Look]) -> float:
    """Mean difference of the colours along the edges over all pairs of pictures, 0 if all are the same."""
    rings = np.stack([look.surroundings for look in looks])
    pairs = [np.abs(rings[index + 1 :] - ring).mean((1, 2)) for index, ring in enumerate(rings[:-1])]
    return float(np.concatenate(pairs).mean())
