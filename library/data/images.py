"""Pictures, in the right colours, the right way up, and in the size of their bucket."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageFile, ImageOps
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor

from library.config.dataset import Dataset
from library.data.whole import png_chunks, seems_cut_off
from library.errors import ConfigError, DataError
from library.files.picture_files import opened

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
NUMBERS = {"I": "32-bit integers", "F": "floating-point numbers"}
"""The content of pictures without a brightest value, by PIL's mode."""
ORIENTATION = 0x0112
"""EXIF's tag for a picture's rotation."""


def open_image(path: Path, content: bytes | None = None) -> Image.Image:
    """A picture as RGB, in sRGB, rotated as its EXIF says, transparency as white; the first one of an animation.

    Args:
        content: see `opened`.

    Raises:
        DataError: see `image_size`, or it is truncated.
    """

    def as_seen(file: Image.Image) -> Image.Image:
        _check_mode(path, file)
        image = _in_srgb(in_8_bits(ImageOps.exif_transpose(file)))
        if is_transparent(image):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")

    return opened(path, as_seen, content)


def is_transparent(image: Image.Image) -> bool:
    """Whether a picture may have transparent places."""
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def has_several(path: Path) -> bool:
    """Whether a file has several frames or pages; only the first is used."""
    return opened(path, lambda file: file.format != "MPO" and getattr(file, "n_frames", 1) > 1)


def _check_mode(path: Path, file: Image.Image) -> None:
    if file.mode in NUMBERS:
        raise DataError(
            f"The image {path} contains {NUMBERS[file.mode]} instead of colours.", "Save it again as PNG or JPEG."
        )


def in_8_bits(image: Image.Image) -> Image.Image:
    """A 16-bit grey picture scaled to 8 bits, which PIL would clip at 255; any other unchanged."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


def _in_srgb(image: Image.Image) -> Image.Image:
    """A picture with its own colour profile, such as a phone's or a printer's, converted to sRGB."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(own).lower():
            return image
        kept = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode=kept)
    except (ImageCms.PyCMSError, OSError):  # damaged, or for another kind of picture
        return image
    assert converted is not None, "it is None only where an image is converted in place"
    return converted


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) as displayed, with its EXIF rotation, without decoding the picture.

    Raises:
        DataError: not a picture, suspiciously huge, truncated, or with numbers that are not colours.
    """

    def size(file: ImageFile.ImageFile) -> tuple[int, int]:
        _check_mode(path, file)
        if seems_cut_off(file, path) and not _is_decoded(file):
            raise DataError(
                f"The image {path} is cut off: its end is missing.",
                "Copy or download it again, or remove it.",
            )
        if file.format == "TIFF":  # PIL has turned its size already
            return file.size
        return file.size[::-1] if _exif_of(file, path).get(ORIENTATION, 1) in (5, 6, 7, 8) else file.size

    return opened(path, size)


def _is_decoded(file: Image.Image) -> bool:
    """Whether PIL can decode it anyway; then nothing important is missing."""
    try:
        file.load()
    except MemoryError:
        raise
    except Exception:  # see `opened`
        return False
    return True


def _exif_of(file: Image.Image, path: Path) -> Image.Exif:
    """A picture's EXIF. For a PNG, PIL would decode all pixels, because EXIF may come after them; usually it
    doesn't."""
    if not isinstance(file, PngImageFile):
        return file.getexif()
    kinds = list(png_chunks(path))
    behind = kinds[kinds.index(b"IDAT") :] if b"IDAT" in kinds else []
    return file.getexif() if {b"eXIf", b"iTXt", b"tEXt", b"zTXt"} & set(behind) else Image.Image.getexif(file)


def fit(
    image: Image.Image,
    size: tuple[int, int],
    mirrored: bool = False,
    centering: tuple[float, float] = (0.5, 0.5),
    interpolation: str | None = None,
) -> Tensor:
    """The picture scaled to cover `size`, (width, height), and cut at its edges: (3, H, W), float32, in -1 .. 1.

    Args:
        centering: where it is cropped, across and down: 0 keeps the start, 1 the end, 0.5 cuts evenly.
        interpolation: a value of `resize_interpolation`.
    """
    covered = ImageOps.fit(image, size, INTERPOLATIONS[interpolation], centering=centering)
    pixels = torch.from_numpy(np.array(ImageOps.mirror(covered) if mirrored else covered))
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


@dataclass(frozen=True)
class Buckets:
    """The sizes to which pictures of a dataset are resized.

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
        return min(self._all_sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - wanted), -math.prod(size)))

    @cached_property
    def _all_sizes(self) -> list[tuple[int, int]]:
        """For every width the tallest bucket that keeps the area, and the same in landscape."""
        area = math.prod(self.dataset.resolution)
        low, high, step = self.dataset.min_bucket_reso, self.dataset.max_bucket_reso, self.dataset.bucket_reso_steps
        sides = range(math.ceil(low / step) * step, min(high, area // low) + 1, step)
        sizes = {self.dataset.resolution}
        for width in sides:
            height = min(high, area // width) // step * step
            if height >= low:
                sizes |= {(width, height), (height, width)}
        return sorted(sizes)

    def _stepped(self, side: float) -> int:
        step = self.dataset.bucket_reso_steps
        return max(step, int(side) // step * step)
