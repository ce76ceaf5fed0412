"""The user's pictures as the trainer sees them: latents, captions, buckets and the order they come in."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from library import fingerprint
from library.config.dataset import Concept, DatasetConfig, Subset
from library.data.cache import Cache
from library.data.captions import prompts_of
from library.data.images import Buckets, find_images, fit, image_size, open_image
from library.models.interface import FlowModel
from library.prompts import NULL_PROMPT, PromptTriple


@dataclass(frozen=True)
class Picture:
    """One picture of a folder."""

    path: Path
    original_size: tuple[int, int]
    size: tuple[int, int]
    """Width and height of its bucket."""
    concept: Concept
    subset: Subset
    prompts: tuple[PromptTriple, ...]


@dataclass(frozen=True)
class Draw:
    """A picture as one step shows it."""

    picture: Picture
    prompts: PromptTriple
    mirrored: bool


def find_pictures(config: DatasetConfig, size_multiple: int) -> list[list[Picture]]:
    """The pictures of each dataset, captions read and buckets chosen; no pixel is decoded yet."""
    datasets = []
    for dataset in config.datasets:
        buckets, pictures = Buckets(dataset, size_multiple), []
        for subset in dataset.subsets:
            concept = config.concept_of(subset)
            for path in find_images(subset.image_dir):
                original = image_size(path)
                prompts = tuple(prompts_of(path, subset, concept))
                pictures.append(Picture(path, original, buckets.size_for(*original), concept, subset, prompts))
        datasets.append(pictures)
    return datasets


class Latents:
    """The pictures' latents, encoded once and kept in the cache and in memory."""

    def __init__(self, model: FlowModel, cache: Cache) -> None:
        self.model, self.cache = model, cache
        self._latents: dict[tuple[Path, tuple[int, int], bool], tuple[Tensor, Tensor]] = {}

    def prepare(self, pictures: Iterable[Picture], progress: Callable[[Iterable], Iterable] = iter) -> None:
        """Reads or computes the latents of these pictures, mirrored too where the subset flips."""
        ways = [(p, mirrored) for p in pictures for mirrored in ((False, True) if p.subset.flip_aug else (False,))]
        content = {path: fingerprint.of_file(path) for path in {picture.path for picture, _ in ways}}
        for picture, mirrored in progress(ways):
            key = {
                "image": content[picture.path],
                "size": list(picture.size),
                "mirrored": mirrored,
                "model": self.model.image_fingerprint(),
            }
            found = self.cache.get("latents", key, lambda p=picture, m=mirrored: self._encode(p, m))
            self._latents[picture.path, picture.size, mirrored] = found["mean"], found["std"]

    def draw(self, draw: Draw, generator: torch.Generator) -> Tensor:
        """Latents of a picture, (C, h, w): one sample of what the VAE makes of it."""
        mean, std = self._latents[draw.picture.path, draw.picture.size, draw.mirrored]
        return mean + std * torch.randn(mean.shape, generator=generator)

    def mean(self, picture: Picture) -> Tensor:
        """The mean of a picture's latents, (C, h, w)."""
        return self._latents[picture.path, picture.size, False][0]

    def _encode(self, picture: Picture, mirrored: bool) -> dict[str, Tensor]:
        mean, std = self.model.encode_image(fit(open_image(picture.path), picture.size, mirrored))
        return {"mean": mean, "std": std}


class PictureOrder:
    """Which pictures each batch shows: a function of seed and number of the batch alone, so that a resumed run goes on.

    An epoch shows every picture `num_repeats` times, shuffled; a batch holds pictures of one size and one dataset.

    Args:
        datasets: the pictures of each dataset.
        batch_sizes: of each dataset.
    """

    def __init__(self, datasets: list[list[Picture]], batch_sizes: list[int], seed: int) -> None:
        self.datasets, self.batch_sizes, self.seed = datasets, batch_sizes, seed
        self._epoch: tuple[int, list[list[Draw]]] = (0, self._shuffled(0))
        self.batches_per_epoch = len(self._epoch[1])

    def batch(self, number: int) -> list[Draw]:
        """The pictures of batch `number`, counted from 0 over all epochs."""
        epoch, index = divmod(number, self.batches_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._shuffled(epoch)
        return self._epoch[1][index]

    def _shuffled(self, epoch: int) -> list[list[Draw]]:
        chance = random.Random(f"{self.seed} {epoch}")
        batches: list[list[Draw]] = []
        for pictures, batch_size in zip(self.datasets, self.batch_sizes, strict=True):
            by_size: dict[tuple[int, int], list[Draw]] = defaultdict(list)
            for picture in pictures:
                for _ in range(picture.subset.num_repeats):
                    by_size[picture.size].append(self._draw(picture, chance))
            for draws in by_size.values():
                chance.shuffle(draws)
                batches += [draws[begin : begin + batch_size] for begin in range(0, len(draws), batch_size)]
        chance.shuffle(batches)
        return batches

    @staticmethod
    def _draw(picture: Picture, chance: random.Random) -> Draw:
        prompts = chance.choice(picture.prompts)
        if chance.random() < picture.subset.caption_dropout_rate:
            prompts = PromptTriple(NULL_PROMPT, NULL_PROMPT, prompts.target, prompts.class_only)
        return Draw(picture, prompts, picture.subset.flip_aug and chance.random() < 0.5)
