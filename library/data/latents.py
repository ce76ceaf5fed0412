"""The pictures' latents and masks: encoded once, kept in the cache, and read from there batch by batch."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from library.data.images import fit, open_image
from library.data.masks import alpha_of, has_alpha, read_mask
from library.data.pictures import Draw, Picture
from library.files import fingerprint
from library.files.cache import Cache
from library.files.picture_files import read_bytes
from library.models.family import FlowModel
from library.models.interface import Progress

SEEN = 2
"""Version of how pictures are decoded; a new one makes old latents obsolete."""


class Latents:
    """The pictures' latents, encoded once; in memory is what the cache holds there, however many pictures there are.

    Args:
        reg_weight: the weight of regularisation pictures.
    """

    def __init__(self, model: FlowModel, cache: Cache, reg_weight: float = 1.0) -> None:
        self.model = model
        self.cache = cache
        self.reg_weight = reg_weight
        self._latents: dict[Hashable, str] = {}
        self._masks: dict[Hashable, str] = {}

    def prepare(self, pictures: Iterable[Picture], progress: Progress = iter) -> None:
        """Finds or computes the latents of these pictures, mirrored and in all their crops where the subset says so.

        Raises:
            DataError: a picture can't be read or no longer exists.
        """
        for picture in progress(list(pictures)):
            source = _Source(picture)
            for mirrored in (False, True) if picture.subset.flip_aug else (False,):
                for crop in range(len(picture.crops)):
                    self._prepare(source, mirrored, crop)

    def draw(self, draw: Draw, generator: torch.Generator) -> Tensor:
        """Latents of a picture, (C, h, w): one sample of what the VAE makes of it."""
        found = self.cache.at(self._latents[_way(draw.picture, draw.mirrored, draw.crop)])
        return found["mean"] + found["std"] * torch.randn(found["mean"].shape, generator=generator)

    def mean(self, picture: Picture) -> Tensor:
        """The mean of a picture's latents, (C, h, w)."""
        return self.cache.at(self.place(picture))["mean"]

    def place(self, picture: Picture) -> str:
        """The place of a picture's latents in the cache: depends on content, size, crop and encoder."""
        return self._latents[_way(picture, False, 0)]

    def emphasis(self, draws: Sequence[Draw]) -> Tensor | None:
        """The weight of each place of these pictures in the concept loss, (B, 1, h, w); None if all are 1.

        A mask excludes places. A regularisation picture has `reg_weight`, or 0 if it only ties.
        """
        ways = [_way(draw.picture, draw.mirrored, draw.crop) for draw in draws]
        if not any(way in self._masks for way in ways) and not any(draw.picture.subset.is_reg for draw in draws):
            return None
        shape = self.cache.at(self._latents[ways[0]])["mean"].shape[1:]
        rows = []
        for draw, way in zip(draws, ways, strict=True):
            subset = draw.picture.subset
            weight = 0.0 if subset.diff_output_preservation else self.reg_weight
            mask = self.cache.at(self._masks[way])["mask"] if way in self._masks else torch.ones(1, *shape)
            rows.append(mask * (weight if subset.is_reg else 1.0))
        return torch.stack(rows)

    def _prepare(self, source: _Source, mirrored: bool, crop: int) -> None:
        """One way to show a picture."""
        picture = source.picture
        way, key = _way(picture, mirrored, crop), {"size": list(picture.size), "mirrored": mirrored}
        if len(picture.crops) > 1:
            key["crop"] = list(picture.crops[crop])
        interpolation, where = picture.subset.resize_interpolation, picture.crops[crop]
        own = {**key, "image": source.hash, "interpolation": interpolation, "seen": SEEN}
        own["model"] = self.model.image_fingerprint()

        def encode() -> dict[str, Tensor]:
            mean, std = self.model.encode_image(fit(source.image, picture.size, mirrored, where, interpolation))
            return {"mean": mean, "std": std}

        found = self.cache.get("latents", own, encode)
        self._latents[way] = self.cache.place("latents", own)
        if not source.masked:
            return
        shape = found["mean"].shape[1:]
        own = {**key, "image": source.mask_hash, "alpha": picture.mask is None, "shape": list(shape)}

        def shrink() -> dict[str, Tensor]:
            pixels = (fit(source.mask.convert("RGB"), picture.size, mirrored, where)[:1] + 1) / 2
            return {"mask": torch.nn.functional.interpolate(pixels[None], shape, mode="area")[0]}

        self.cache.get("masks", own, shrink)
        self._masks[way] = self.cache.place("masks", own)


class _Source:
    """A picture's file and its mask, each read once, and decoded once on demand.

    Raises:
        DataError: it can't be read, or is gone.
    """

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.content = read_bytes(picture.path)
        self.hash = fingerprint.of_bytes(self.content)
        self.mask_content = read_bytes(picture.mask) if picture.mask else self.content
        alpha = picture.subset.alpha_mask and not picture.mask and has_alpha(picture.path, self.content)
        self.masked = bool(picture.mask or alpha)

    @cached_property
    def image(self) -> Image.Image:
        """The picture."""
        return open_image(self.picture.path, self.content)

    @property
    def mask_hash(self) -> str:
        """Of the file that the mask is in."""
        return fingerprint.of_bytes(self.mask_content)

    @cached_property
    def mask(self) -> Image.Image:
        """The mask, white where the picture counts."""
        picture = self.picture
        return read_mask(picture.mask, self.mask_content) if picture.mask else alpha_of(picture.path, self.mask_content)


def _way(picture: Picture, mirrored: bool, crop: int) -> Hashable:
    """The keys that tell a run's latents apart."""
    treatment = (picture.subset.resize_interpolation, picture.subset.alpha_mask, picture.mask)
    return picture.path, picture.size, mirrored, picture.crops[crop], treatment
