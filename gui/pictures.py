"""The pictures of a project: added, shown small, removed."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import BinaryIO

from gui.places import NotHere, existing, inside, numbered
from gui.projects import Project
from library.config.file_names import why_not_a_name
from library.data.images import image_size, open_image
from library.errors import DataError
from library.files.atomic import remove, written
from library.files.picture_files import HEIF_ENDINGS, IMAGE_ENDINGS, INSTALL_HEIF, is_picture, pictures_in

LARGEST = 100_000_000
"""Most bytes of an uploaded picture."""
SIDES = (96, 320, 1024)
"""Longest sides, in pixels, at which pictures are shown."""
QUALITY = 85
LONGEST_STEM = 80


def pictures_of(project: Project) -> list[Path]:
    """Its pictures, by name."""
    return pictures_in(project.pictures) if project.pictures.is_dir() else []


def take_in(project: Project, name: str, content: BinaryIO) -> Path:
    """Adds a picture under an unused name.

    Raises:
        DataError: not a picture, damaged, or too large.
        StorageError: the disk is full or read-only.
    """
    ending = Path(name.replace("\\", "/")).suffix.lower()
    if ending in HEIF_ENDINGS and not is_picture(f"a{ending}"):
        raise DataError(f"{shown(name)}: HEIC pictures need another package.", INSTALL_HEIF)
    if ending not in IMAGE_ENDINGS | HEIF_ENDINGS:
        raise DataError(f"{shown(name)} can't be read as a picture.", "Save it as PNG or JPEG.")
    target = free_name(project.pictures, stem_of(name), ending)
    with written(target, durable=False) as temporary:
        size = 0
        with temporary.open("wb") as file:
            while part := content.read(1 << 20):
                size += len(part)
                if size > LARGEST:
                    raise DataError(f"{shown(name)} is larger than {LARGEST // 1_000_000} MB.", "Make it smaller.")
                file.write(part)
        try:
            image_size(temporary)
        except DataError as error:
            raise DataError(error.what.replace(f"The image {temporary}", shown(name)), error.remedy) from error
    return target


def shown(name: str) -> str:
    """A file's name for the middle of a sentence."""
    return f'"{name[:100]}"'


def stem_of(name: str) -> str:
    """A name from a browser without its path, its ending and characters that some systems refuse."""
    stem = Path(unicodedata.normalize("NFC", name).replace("\\", "/")).name.rpartition(".")[0]
    stem = re.sub(r"[^\w ()+,=@!-]+", "_", stem).strip(" ._")[:LONGEST_STEM].strip(" ._")
    return stem if stem and not why_not_a_name(stem) else f"picture_{stem}".strip("_")


def free_name(folder: Path, stem: str, ending: str) -> Path:
    """An unused path. Its stem is unused, too, because captions are found by it."""
    taken = {path.stem.lower() for path in folder.iterdir()}
    return inside(folder, f"{numbered(stem, taken, '_')}{ending}")


def picture_named(project: Project, name: str) -> Path:
    """One of its pictures.

    Raises:
        NotHere: there is none of this name.
    """
    path = existing(project.pictures, name)
    if path not in pictures_of(project):
        raise NotHere(name)
    return path


def take_out(project: Project, name: str) -> None:
    """Moves a picture and its caption into the folder `removed`, where they can be recovered."""
    path, away = picture_named(project, name), inside(project.folder, "removed")
    away.mkdir(exist_ok=True)
    for file in (path, path.with_suffix(".txt")):
        if file.is_file():
            file.replace(away / file.name)


def small(folder: Path, picture: Path, side: int) -> Path:
    """A JPEG of a picture, at most `side` pixels wide and high, made on the first request.

    Args:
        folder: where such files are kept.
        side: one of `SIDES`.

    Raises:
        DataError: the picture can't be read.
    """
    target = folder / f"{picture.name}-{side}.jpg"
    if not target.is_file() or target.stat().st_mtime < picture.stat().st_mtime:
        image = open_image(picture)
        image.thumbnail((side, side))
        with written(target, durable=False) as temporary:
            image.save(temporary, "JPEG", quality=QUALITY)
    return target


def forget_small(folder: Path, name: str) -> None:
    """Removes the small versions of a picture that is gone."""
    for side in SIDES:
        remove(folder / f"{name}-{side}.jpg")
