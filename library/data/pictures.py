"""The user's pictures as the trainer sees them: latents, captions, buckets and the order they come in."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from library import fingerprint
from library.chance import seed_for
from library.config.dataset import Concept, DatasetConfig, Subset
from library.data.cache import Cache
from library.data.captions import prompts_of
from library.data.images import Buckets, find_images, fit, image_size, open_image
from library.data.masks import mask_file_of, mask_of
from library.errors import DataError, PureCCError, all_of
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
    crops: tuple[tuple[float, float], ...] = ((0.5, 0.5),)
    """Where it may be cut to its bucket, across and down; see `fit`."""


@dataclass(frozen=True)
class Draw:
    """A picture as one step shows it."""

    picture: Picture
    prompts: PromptTriple
    mirrored: bool
    crop: int = 0
    """Which of the picture's crops."""


def find_pictures(
    config: DatasetConfig, size_multiple: int, seed: int = 0, caption_variants: int = 8, crops: int = 4
) -> list[list[Picture]]:
    """The pictures of each dataset, captions read and buckets chosen; no pixel is decoded yet.

    Args:
        seed: variants of captions and random crops follow from it.
        caption_variants, crops: how many of each.

    Raises:
        DataError: names every picture and caption that can't be used.
    """
    datasets, problems = [], list[PureCCError]()
    for dataset in config.datasets:
        buckets, pictures = Buckets(dataset, size_multiple), []
        for subset in dataset.subsets:
            concept = config.concept_of(subset)
            for path in _images_of(subset, problems):
                try:
                    original = image_size(path)
                    prompts = tuple(prompts_of(path, subset, concept, seed, caption_variants))
                    mask_file_of(path, subset)
                except DataError as error:
                    problems.append(error)
                    continue
                where = _random_places(path, seed, crops) if subset.random_crop else ((0.5, 0.5),)
                pictures.append(Picture(path, original, buckets.size_for(*original), concept, subset, prompts, where))
        datasets.append(pictures)
    if problems:
        raise all_of(problems)
    return datasets


def _images_of(subset: Subset, problems: list[PureCCError]) -> list[Path]:
    try:
        return find_images(subset.image_dir)
    except DataError as error:
        problems.append(error)
        return []


def _random_places(path: Path, seed: int, count: int) -> tuple[tuple[float, float], ...]:
    chance = random.Random(seed_for(seed, "crop", path.name))
    return tuple((chance.random(), chance.random()) for _ in range(count))


def split_validation(
    config: DatasetConfig, datasets: list[list[Picture]], seed: int
) -> tuple[list[list[Picture]], list[Picture]]:
    """The pictures to train on, and those that `validation_split` keeps for the validation loss.

    Regularisation pictures are all trained on, and so is at least one other picture of each dataset.
    """
    training, kept = [], []
    for number, (dataset, pictures) in enumerate(zip(config.datasets, datasets, strict=True)):
        shown = [picture for picture in pictures if not picture.subset.is_reg]
        count = min(int(len(shown) * dataset.validation_split), max(0, len(shown) - 1))
        own_seed = seed if dataset.validation_seed is None else dataset.validation_seed
        out = random.Random(seed_for(own_seed, "validation", number)).sample(shown, count)
        training.append([picture for picture in pictures if picture not in out])
        kept += out
    return training, kept


class Latents:
    """The pictures' latents, encoded once and kept in the cache and in memory."""

    def __init__(self, model: FlowModel, cache: Cache, reg_weight: float = 1.0) -> None:
        self.model, self.cache, self.reg_weight = model, cache, reg_weight
        self._latents: dict[tuple, tuple[Tensor, Tensor]] = {}
        self._masks: dict[tuple, Tensor] = {}

    def prepare(self, pictures: Iterable[Picture], progress: Callable[[Iterable], Iterable] = iter) -> None:
        """Reads or computes the latents of these pictures, mirrored and in all their crops where the subset says so."""
        ways = [
            (picture, mirrored, crop)
            for picture in pictures
            for mirrored in ((False, True) if picture.subset.flip_aug else (False,))
            for crop in range(len(picture.crops))
        ]
        content = {path: fingerprint.of_file(path) for path in {picture.path for picture, *_ in ways}}
        for picture, mirrored, crop in progress(ways):
            key = {
                "image": content[picture.path],
                "size": list(picture.size),
                "mirrored": mirrored,
                "model": self.model.image_fingerprint(),
            }
            if len(picture.crops) > 1:
                key["crop"] = list(picture.crops[crop])
            if picture.subset.resize_interpolation:
                key["interpolation"] = picture.subset.resize_interpolation
            found = self.cache.get("latents", key, lambda way=(picture, mirrored, crop): self._encode(*way))
            way = _way(picture, mirrored, crop)
            self._latents[way] = found["mean"], found["std"]
            self._prepare_mask(picture, mirrored, crop)

    def draw(self, draw: Draw, generator: torch.Generator) -> Tensor:
        """Latents of a picture, (C, h, w): one sample of what the VAE makes of it."""
        mean, std = self._latents[_way(draw.picture, draw.mirrored, draw.crop)]
        return mean + std * torch.randn(mean.shape, generator=generator)

    def mean(self, picture: Picture) -> Tensor:
        """The mean of a picture's latents, (C, h, w)."""
        return self._latents[_way(picture, False, 0)][0]

    def emphasis(self, draws: Sequence[Draw]) -> Tensor | None:
        """How much each place of these pictures counts in the concept loss, (B, 1, h, w); None if all of it does.

        A mask takes places out; a regularisation picture counts with `reg_weight`, or not at all if it only ties.
        """
        masks = [self._masks.get(_way(draw.picture, draw.mirrored, draw.crop)) for draw in draws]
        if all(mask is None for mask in masks) and not any(draw.picture.subset.is_reg for draw in draws):
            return None
        shape = self._latents[_way(draws[0].picture, draws[0].mirrored, draws[0].crop)][0].shape[1:]
        rows = []
        for draw, mask in zip(draws, masks, strict=True):
            subset = draw.picture.subset
            weight = 0.0 if subset.diff_output_preservation else self.reg_weight
            rows.append((torch.ones(1, *shape) if mask is None else mask) * (weight if subset.is_reg else 1.0))
        return torch.stack(rows)

    def _encode(self, picture: Picture, mirrored: bool, crop: int) -> dict[str, Tensor]:
        image, interpolation = open_image(picture.path), picture.subset.resize_interpolation
        mean, std = self.model.encode_image(fit(image, picture.size, mirrored, picture.crops[crop], interpolation))
        return {"mean": mean, "std": std}

    def _prepare_mask(self, picture: Picture, mirrored: bool, crop: int) -> None:
        mask = mask_of(picture.path, picture.subset)
        if mask is not None:
            pixels = (fit(mask.convert("RGB"), picture.size, mirrored, picture.crops[crop])[:1] + 1) / 2
            way = _way(picture, mirrored, crop)
            shape = self._latents[way][0].shape[1:]
            self._masks[way] = torch.nn.functional.interpolate(pixels[None], shape, mode="area")[0]


def _way(picture: Picture, mirrored: bool, crop: int) -> tuple:
    """What tells latents of a run apart."""
    subset = picture.subset
    treatment = (subset.resize_interpolation, subset.alpha_mask, subset.conditioning_data_dir)
    return picture.path, picture.size, mirrored, picture.crops[crop], treatment


class PictureOrder:
    """Which pictures each batch shows: follows from seed and number of the batch alone, so that a resumed run goes on.

    An epoch shows every picture `num_repeats` times, shuffled; a batch is of one size and one dataset. Where
    a dataset has regularisation pictures, as many of them come in between, over the epochs all in turn.

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
            for picture in _repeated(pictures, epoch):
                by_size[picture.size].append(self._draw(picture, chance, epoch))
            for draws in by_size.values():
                chance.shuffle(draws)
                batches += [draws[begin : begin + batch_size] for begin in range(0, len(draws), batch_size)]
        chance.shuffle(batches)
        return batches

    @staticmethod
    def _draw(picture: Picture, chance: random.Random, epoch: int) -> Draw:
        prompts, subset = chance.choice(picture.prompts), picture.subset
        every = subset.caption_dropout_every_n_epochs
        if chance.random() < subset.caption_dropout_rate or (every and (epoch + 1) % every == 0):
            prompts = PromptTriple(NULL_PROMPT, NULL_PROMPT, prompts.target, prompts.class_only)
        mirrored = subset.flip_aug and chance.random() < 0.5
        return Draw(picture, prompts, mirrored, chance.randrange(len(picture.crops)) if len(picture.crops) > 1 else 0)


def _repeated(pictures: list[Picture], epoch: int) -> list[Picture]:
    """The pictures of an epoch of a dataset, those of each subset `num_repeats` times."""
    shown = [picture for picture in pictures for _ in range(picture.subset.num_repeats) if not picture.subset.is_reg]
    reg = [picture for picture in pictures for _ in range(picture.subset.num_repeats) if picture.subset.is_reg]
    begin = epoch * len(shown)
    return shown + [reg[(begin + index) % len(reg)] for index in range(len(shown) if reg else 0)]
