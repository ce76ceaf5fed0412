"""Pictures: found in folders, opened safely, brought to the size of their bucket."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from library.config.dataset import Dataset
from library.errors import ConfigError, DataError, nearest

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"}
INTERPOLATIONS = {
    None: Image.Resampling.LANCZOS,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "linear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "cubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
    "box": Image.Resampling.BOX,
}
"""PIL's way for each `resize_interpolation`."""


def find_images(folder: str) -> list[Path]:
    """The pictures of a folder, by name; folders inside it are not searched, as in sd-scripts.

    Raises:
        DataError: no such folder, or no pictures in it.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        siblings = [str(other) for other in path.parent.iterdir() if other.is_dir()] if path.parent.is_dir() else []
        guess = nearest(str(path), siblings)
        remedy = f'Did you mean "{guess}"?' if guess else "Paths count from the folder the command is started in."
        raise DataError(f"image_dir: there is no folder {path.absolute()}.", remedy)
    images = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_ENDINGS)
    if not images:
        raise DataError(
            f"image_dir: the folder {path} holds no pictures.", f"Known are: {', '.join(sorted(IMAGE_ENDINGS))}."
        )
    return images


T = TypeVar("T")


def opened(path: Path, convert: Callable[[Image.Image], T]) -> T:
    """What `convert` makes of a picture file.

    Raises:
        DataError: not a picture, cut off, or suspiciously huge.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                return convert(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"The picture {path} can't be read: {error}.", "Save it anew as PNG or JPEG, or take it out."
        ) from error


def open_image(path: Path) -> Image.Image:
    """A picture as RGB, turned the way its EXIF says; what is transparent becomes white.

    Raises:
        DataError: not a picture, cut off, or suspiciously huge.
    """

    def as_seen(file: Image.Image) -> Image.Image:
        image = ImageOps.exif_transpose(file)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")

    return opened(path, as_seen)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) as it is seen, EXIF turn included, without decoding the picture."""
    try:
        with Image.open(path) as file:
            turned = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return file.size[::-1] if turned else file.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"The picture {path} can't be read: {error}.", "Save it anew as PNG or JPEG, or take it out."
        ) from error


def fit(
    image: Image.Image,
    size: tuple[int, int],
    mirrored: bool = False,
    centering: tuple[float, float] = (0.5, 0.5),
    interpolation: str | None = None,
) -> Tensor:
    """The picture scaled to cover `size`, (width, height), and cut at its edges: (3, H, W), float32, in -1 .. 1.

    Args:
        centering: where it is cut, across and down: 0 keeps the begin, 1 the end, 0.5 cuts evenly.
        interpolation: a value of `resize_interpolation`.
    """
    covered = ImageOps.fit(image, size, INTERPOLATIONS[interpolation], centering=centering)
    pixels = torch.from_numpy(np.array(ImageOps.mirror(covered) if mirrored else covered))
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


@dataclass(frozen=True)
class Buckets:
    """The sizes that pictures of a dataset are brought to.

    Args:
        dataset: its resolution and bucket settings.
        multiple: what sides must be multiples of, for the model.
    """

    dataset: Dataset
    multiple: int

    def __post_init__(self) -> None:
        width, height = self.dataset.resolution
        if width % self.multiple or height % self.multiple:
            near = [max(self.multiple, round(side / self.multiple) * self.multiple) for side in (width, height)]
            raise ConfigError(
                f"resolution is {width} x {height}; this model needs multiples of {self.multiple}.",
                f"The nearest is {near[0]} x {near[1]}.",
            )
        if self.dataset.enable_bucket and self.dataset.bucket_reso_steps % self.multiple:
            raise ConfigError(
                f"bucket_reso_steps is {self.dataset.bucket_reso_steps}; the model needs multiples of {self.multiple}.",
                f"Set bucket_reso_steps = {self.multiple}.",
            )

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """The bucket, (width, height), of a picture of this size."""
        if not self.dataset.enable_bucket:
            return self.dataset.resolution
        area = math.prod(self.dataset.resolution)
        if self.dataset.bucket_no_upscale:
            shrink = min(1.0, math.sqrt(area / (width * height)))
            return self._stepped(width * shrink), self._stepped(height * shrink)
        wanted = math.log(width / height)
        sizes = self._all_sizes(area)
        return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - wanted), -math.prod(size)))

    def _all_sizes(self, area: int) -> list[tuple[int, int]]:
        """For every width the tallest bucket that keeps the area, and the same lying down."""
        low, high, step = self.dataset.min_bucket_reso, self.dataset.max_bucket_reso, self.dataset.bucket_reso_steps
        sides = range(math.ceil(low / step) * step, high + 1, step)
        sizes = {self.dataset.resolution}
        for width in sides:
            height = min(high, area // width) // step * step
            if height >= low:
                sizes |= {(width, height), (height, width)}
        return sorted(sizes)

    def _stepped(self, side: float) -> int:
        step = self.dataset.bucket_reso_steps
        return max(step, int(side) // step * step)
