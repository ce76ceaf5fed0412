"""Pictures as networks want them: resized, cut, normalised."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from library.errors import ModelError

T = TypeVar("T")

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Shorter side to `resize`, the middle `crop` x `crop` of it, (x - mean) / std.

    Attributes:
        squash: resize to `crop` x `crop` at once, whatever the shape.
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = Image.Resampling.BICUBIC
    squash: bool = False

    @classmethod
    def of_file(cls, file: Path) -> Preprocess:
        """From the preprocessor_config.json of a CLIP.

        Raises:
            ModelError: not such a file.
        """
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            size, crop = said["size"], said.get("crop_size", said["size"])
            resize = size["shortest_edge"] if isinstance(size, dict) else size
            side = crop["height"] if isinstance(crop, dict) else crop
            return cls(int(resize), int(side), tuple(said["image_mean"]), tuple(said["image_std"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{file} lacks the image settings of a CLIP: {error!r}.") from error

    def __call__(self, image: Image.Image) -> Tensor:
        """(3, crop, crop) float32."""
        image = image.convert("RGB")
        if self.squash:
            image = image.resize((self.crop, self.crop), self.resample)
        else:
            width, height = image.size
            short = min(width, height)
            new = (int(self.resize * width / short), int(self.resize * height / short))
            image = image.resize(new, self.resample) if new != image.size else image
            left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
            image = image.crop((left, top, left + self.crop, top + self.crop))
        x = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (x - mean) / std

    def batch(self, images: Sequence[Image.Image]) -> Tensor:
        """(N, 3, crop, crop) float32."""
        return torch.stack([self(image) for image in images])


def as_tensor(image: Image.Image) -> Tensor:
    """A picture's pixels, (3, H, W) float32 in -1 .. 1."""
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def in_batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Parts of a sequence, in order."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
