"""Which places of a picture count in the concept loss: from its transparency, or a mask of the same name."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from library.config.dataset import Subset
from library.data.images import in_8_bits, is_transparent
from library.errors import DataError
from library.files.picture_files import opened, pictures_in


def find_masks(subset: Subset) -> dict[str, Path] | None:
    """The masks in `conditioning_data_dir`, by the name without ending; None if the subset has no such folder.

    Raises:
        DataError: the folder is missing.
    """
    if not subset.conditioning_data_dir:
        return None
    folder = Path(subset.conditioning_data_dir).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"conditioning_data_dir: the folder {folder.absolute()} doesn't exist.",
            "Relative paths start at the folder where you run the command.",
        )
    return {file.stem: file for file in reversed(pictures_in(folder))}  # if two have the same name, the first counts


def mask_file_of(image: Path, subset: Subset, masks: dict[str, Path] | None) -> Path | None:
    """The mask of a picture; None if the subset has none.

    Args:
        masks: what `find_masks` gave.

    Raises:
        DataError: it is missing.
    """
    if masks is None:
        return None
    if image.stem not in masks:
        raise DataError(
            f"The image {image} has no mask in {subset.conditioning_data_dir}.",
            f"Save its mask there as {image.stem}.png.",
        )
    return masks[image.stem]


def read_mask(path: Path, content: bytes) -> Image.Image:
    """A mask picture: white where the picture counts, black where it does not, of any size.

    Args:
        content: of the file.

    Raises:
        DataError: it is not a picture.
    """
    return opened(path, lambda mask: in_8_bits(ImageOps.exif_transpose(mask)).convert("RGB").getchannel("R"), content)


def has_alpha(path: Path, content: bytes) -> bool:
    """Whether a picture may have transparent places, without decoding it.

    Args:
        content: of the file.
    """
    return opened(path, is_transparent, content)


def alpha_of(path: Path, content: bytes) -> Image.Image:
    """A picture's own transparency as a mask.

    Args:
        content: of the file.

    Raises:
        DataError: it can't be read.
    """
    return opened(path, lambda file: ImageOps.exif_transpose(file).convert("RGBA").getchannel("A"), content)
