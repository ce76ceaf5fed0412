"""The recipe's training pictures: drawn once, by all cores, and kept in flat files."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from library.files.atomic import written
from tools.pocket.styles import UNSEEN_STYLE
from tools.pocket.world import Scene, draw, random_scene

CHUNK = 256
"""How many pictures a core draws at a time."""
UNSEEN_SHARE = 16
"""One in N pictures, at the end of the sequence, is in the style that the flow model never sees. The autoencoder and
the scorer see it, as a real autoencoder has also seen more than its model."""


@dataclass(frozen=True)
class Pictures:
    """Pictures and the regions of their pixels, both on disk.

    Attributes:
        pixels: (N, side, side, 3), uint8.
        regions: (N, side, side), uint8.
        seed: determines the scene, together with an index.
        taught: how many of them, from the first on, are in the training world's styles.
    """

    pixels: np.ndarray
    regions: np.ndarray
    seed: int
    taught: int

    @property
    def side(self) -> int:
        """Of each picture, in pixels."""
        return self.pixels.shape[1]

    def scene(self, index: int) -> Scene:
        """The scene of a picture."""
        return scene_at(self.seed, index, unseen_style=index >= self.taught)

    def batch(self, indices: Tensor, device: str) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, side, side), float32 in -1..1, and regions (B, side, side), int64."""
        rows = np.sort(indices.numpy())
        pixels = torch.from_numpy(self.pixels[rows]).to(device)
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, torch.from_numpy(self.regions[rows]).to(device).long()


def scene_at(seed: int, index: int, unseen_style: bool = False) -> Scene:
    """Scene number `index` of a seed's endless sequence."""
    scene = random_scene(random.Random(f"pocket {seed} {index}"))
    return replace(scene, style=UNSEEN_STYLE) if unseen_style else scene


def draw_pictures(folder: Path, count: int, seed: int, side: int) -> Pictures:
    """Draws `count` pictures and the share in the unseen style, or opens existing files with them."""
    total = count + count // UNSEEN_SHARE
    name = f"{seed}-{count}-{side}"
    pixels_file, regions_file = folder / f"pictures-{name}.npy", folder / f"regions-{name}.npy"
    if not (pixels_file.exists() and regions_file.exists()):
        with written(pixels_file) as pixels_path, written(regions_file) as regions_path:
            pixels = np.lib.format.open_memmap(pixels_path, "w+", np.uint8, (total, side, side, 3))
            regions = np.lib.format.open_memmap(regions_path, "w+", np.uint8, (total, side, side))
            for start, some_pixels, some_regions in drawn(seed, count, total, side):
                pixels[start : start + CHUNK], regions[start : start + CHUNK] = some_pixels, some_regions
            pixels.flush()
            regions.flush()
            del pixels, regions  # Windows can't move a mapped file
    return Pictures(np.load(pixels_file, mmap_mode="r"), np.load(regions_file, mmap_mode="r"), seed, count)


def drawn(seed: int, taught: int, total: int, side: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Pictures and regions in batches, each with the number of its first picture."""
    starts = range(0, total, CHUNK)
    with ProcessPoolExecutor(os.cpu_count()) as cores:
        tasks = [(seed, start, min(start + CHUNK, total), taught, side) for start in starts]
        chunks = cores.map(_chunk, tasks)
        yield from ((start, *chunk) for start, chunk in zip(starts, chunks, strict=True))


def _chunk(task: tuple[int, int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    seed, start, end, taught, side = task
    drawings = [draw(scene_at(seed, index, index >= taught), side) for index in range(start, end)]
    return np.stack([d.picture for d in drawings]), np.stack([d.regions for d in drawings])
