"""Which places of a picture count in the concept loss: its transparency, or a mask picture of the same name."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from library.config.dataset import Subset
from library.data.images import IMAGE_ENDINGS, opened
from library.errors import DataError


def mask_file_of(image: Path, subset: Subset) -> Path | None:
    """The mask in `conditioning_data_dir` for a picture; None if the subset has no such folder.

    Raises:
        DataError: the folder or the mask is missing.
    """
    if not subset.conditioning_data_dir:
        return None
    folder = Path(subset.conditioning_data_dir)
    if not folder.is_dir():
        raise DataError(
            f"conditioning_data_dir: there is no folder {folder.absolute()}.",
            "Paths count from the folder the command is started in.",
        )
    found = next((file for file in sorted(folder.glob("*")) if _is_mask_of(file, image)), None)
    if not found:
        raise DataError(
            f"The picture {image} has no mask in {folder}.", f"Put one there that is called {image.stem}.png."
        )
    return found


def _is_mask_of(file: Path, image: Path) -> bool:
    return file.stem == image.stem and file.suffix.lower() in IMAGE_ENDINGS


def mask_of(image: Path, subset: Subset) -> Image.Image | None:
    """White where a picture counts, black where it does not, of any size; None if all of it counts.

    Raises:
        DataError: the mask is missing or can't be read.
    """
    file = mask_file_of(image, subset)
    if file:
        return opened(file, lambda mask: ImageOps.exif_transpose(mask).convert("RGB").getchannel("R"))
    if subset.alpha_mask:
        return opened(image, _alpha)
    return None


def _alpha(file: Image.Image) -> Image.Image | None:
    image = ImageOps.exif_transpose(file)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return image.convert("RGBA").getchannel("A")
    return None
