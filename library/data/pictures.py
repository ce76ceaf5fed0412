"""The user's pictures as the trainer sees them: captions, buckets and order."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from library.chance import seed_for
from library.config.dataset import Concept, DatasetConfig, Subset
from library.data.captions import prompts_of
from library.data.folder import find_images
from library.data.images import Buckets, image_size
from library.data.masks import find_masks, mask_file_of
from library.errors import DataError, PureCCError, all_of
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
    """Its possible crops to its bucket, across and down; see `fit`."""
    mask: Path | None = None
    """The mask: which places of it count."""

    @property
    def cut_away(self) -> float:
        """The share of its area that is cropped to fit its bucket, 0 to 1."""
        (width, height), (own_width, own_height) = self.size, self.original_size
        scale = max(width / own_width, height / own_height)
        return 1 - width * height / (own_width * own_height * scale**2)


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
            concept, (files, masks) = config.concept_of(subset), _files_of(subset, problems)
            for path in files:
                try:
                    original = image_size(path)
                    prompts = tuple(prompts_of(path, subset, concept, seed, caption_variants))
                    mask = mask_file_of(path, subset, masks)
                    if mask:
                        image_size(mask)
                except DataError as error:
                    problems.append(error)
                    continue
                size = buckets.size_for(*original)
                where = _random_places(path, seed, crops) if subset.random_crop else ((0.5, 0.5),)
                pictures.append(Picture(path, original, size, concept, subset, prompts, where, mask))
        datasets.append(pictures)
    if problems:
        raise all_of(problems)
    return datasets


def _files_of(subset: Subset, problems: list[PureCCError]) -> tuple[list[Path], dict[str, Path] | None]:
    """The pictures of a subset, and its masks; neither if a folder can't be used."""
    try:
        return find_images(subset.image_dir), find_masks(subset)
    except DataError as error:
        problems.append(error)
        return [], None


def _random_places(path: Path, seed: int, count: int) -> tuple[tuple[float, float], ...]:
    chance = random.Random(seed_for(seed, "crop", path.name))
    return tuple((chance.random(), chance.random()) for _ in range(count))


def split_validation(
    config: DatasetConfig, datasets: list[list[Picture]], seed: int
) -> tuple[list[list[Picture]], list[Picture]]:
    """The pictures to train on, and those that `validation_split` keeps for the validation loss.

    All regularisation pictures are trained on, and at least one other picture of each dataset.
    """
    training, kept = [], []
    for number, (dataset, pictures) in enumerate(zip(config.datasets, datasets, strict=True)):
        shown = [picture for picture in pictures if not picture.subset.is_reg]
        count = min(int(len(shown) * dataset.validation_split), max(0, len(shown) - 1))
        own_seed = seed if dataset.validation_seed is None else dataset.validation_seed
        out = random.Random(seed_for(own_seed, "validation", number)).sample(shown, count)
        kept_out = set(map(id, out))  # comparing ten thousand pictures with each other takes minutes
        training.append([picture for picture in pictures if id(picture) not in kept_out])
        kept += out
    return training, kept


class PictureOrder:
    """Which pictures each batch shows: depends only on seed and number of the batch, so a resumed run continues it.

    An epoch shows every picture `num_repeats` times, shuffled; a batch is of one size and one dataset. In a dataset
    with regularisation pictures, an equal number of them is mixed in, taking turns over the epochs.

    Args:
        datasets: the pictures of each dataset.
        batch_sizes: of each dataset.
    """

    def __init__(self, datasets: list[list[Picture]], batch_sizes: list[int], seed: int) -> None:
        self.datasets = datasets
        self.batch_sizes = batch_sizes
        self.seed = seed
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
