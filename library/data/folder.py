"""A data folder, read once: what is used, what belongs to the system, and what looks meant but is left out."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from library.config.dataset import DatasetConfig, Subset
from library.config.kohya.data import NAMED_FOLDER
from library.data.captions import ENDINGS, caption_file_of, endings_of, misnamed_captions_of
from library.errors import DataError, nearest
from library.files.picture_files import HEIF_ENDINGS, IMAGE_ENDINGS, INSTALL_HEIF, is_hidden, is_picture, pictures_in

AS_PNG = "Save them as PNG or JPEG."
UNREAD = {
    **dict.fromkeys(HEIF_ENDINGS, ("HEIC needs pillow-heif.", INSTALL_HEIF)),
    ".gif": ("A GIF has only 256 colours and often several frames.", "Save the frames you want as PNG."),
    **dict.fromkeys((".jxl", ".jp2", ".tga", ".exr", ".hdr", ".ppm"), ("This format is not supported.", AS_PNG)),
    **dict.fromkeys((".psd", ".xcf", ".kra", ".svg", ".ai"), ("Files of drawing programs are not supported.", AS_PNG)),
    **dict.fromkeys(
        (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"),
        ("Raw camera files are not supported.", "Convert them to PNG or JPEG."),
    ),
}
"""Endings of files that look like training pictures but are not read: why, and what to do."""
NO_CAPTIONS = frozenset({"readme", "license", "licence", "notes", "prompts", "requirements"})
"""Names of text files, in lower case, that are clearly not captions."""
MOST_COUNTED = 10_000
"""Most files checked in a folder's subfolders."""
LISTED = 4
"""Most names listed in a sentence."""


@dataclass(frozen=True)
class LeftOut:
    """Files or folders that look meant for training and are not used.

    Attributes:
        folder: that contains them.
        why: they are not used, a sentence.
        remedy: a sentence.
    """

    folder: Path
    names: tuple[str, ...]
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"Not used in {self.folder}: {named(self.names)}. {self.why}"


def named(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def find_images(folder: str) -> list[Path]:
    """The pictures of a folder, by name; folders inside it are not searched, as in sd-scripts.

    Raises:
        DataError: no such folder, or no pictures in it. What is there instead is reported.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        siblings = [str(other) for other in path.parent.iterdir() if other.is_dir()] if path.parent.is_dir() else []
        guess = nearest(str(path), siblings)
        remedy = (
            f'Did you mean "{guess}"?' if guess else "Relative paths start at the folder where you run the command."
        )
        raise DataError(f"image_dir: the folder {path.absolute()} doesn't exist.", remedy)
    images = pictures_in(path)
    if not images:
        what, remedy = instead_of_pictures(path)
        raise DataError(f"image_dir: the folder {path} contains no images.{what}", remedy)
    return images


def instead_of_pictures(folder: Path) -> tuple[str, str]:
    """What a folder without pictures contains instead, as a sentence after a space, or ""; and what to do."""
    found = [*_unread_pictures(folder), *_folders_inside(folder, frozenset())]
    if found:
        return f" {found[0]}", found[0].remedy
    return "", f"Known endings: {', '.join(sorted(IMAGE_ENDINGS))}."


def left_out_of(config: DatasetConfig) -> list[LeftOut]:
    """Files in the folders of a config, masks included, that look meant but are not used."""
    subsets = [subset for dataset in config.datasets for subset in dataset.subsets]
    given = [folder for subset in subsets for folder in (subset.image_dir, subset.conditioning_data_dir) if folder]
    used = frozenset(Path(folder).expanduser().resolve() for folder in given)
    found = []
    for subset in subsets:
        folder = Path(subset.image_dir).expanduser()
        found += [*_unread_pictures(folder), *_unread_captions(folder, subset), *_folders_inside(folder, used)]
        if subset.conditioning_data_dir:
            masks = Path(subset.conditioning_data_dir).expanduser()
            found += [*_unread_pictures(masks), *_masks_of_nothing(masks, folder)]
    return list(dict.fromkeys(found))


def _names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not is_hidden(entry.name))


def _unread_pictures(folder: Path) -> Iterator[LeftOut]:
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in _names_in(folder):
        ending = Path(name).suffix.lower()
        if ending in UNREAD and not is_picture(name):
            names[UNREAD[ending]].append(name)
    for (why, remedy), some in names.items():
        yield LeftOut(folder, tuple(some), why, remedy)


def _unread_captions(folder: Path, subset: Subset) -> Iterator[LeftOut]:
    """Misnamed captions, and captions without a picture."""
    read: set[str] = set()
    misnamed: dict[str, str] = {}
    for picture in pictures_in(folder):
        file = caption_file_of(picture, subset)
        if file:
            read.add(file.name)
        else:
            wanted = picture.with_suffix(endings_of(subset)[0]).name
            misnamed |= dict.fromkeys(misnamed_captions_of(picture, subset), wanted)
    if misnamed:
        name, wanted = next(iter(misnamed.items()))
        why = "They look like captions, but their names don't match the images."
        yield LeftOut(folder, tuple(misnamed), why, f'Rename them, such as "{name}" to "{wanted}".')
    names = _names_in(folder)
    stems = {Path(name).stem for name in names if is_picture(name) or Path(name).suffix.lower() in UNREAD}
    endings = (*ENDINGS, *endings_of(subset))
    texts = [name for name in names if name.endswith(endings) and name not in misnamed and name not in read]
    lost = [name for name in texts if Path(name).stem not in stems and Path(name).stem.lower() not in NO_CAPTIONS]
    if lost:
        why = "These captions have no image of the same name."
        yield LeftOut(folder, tuple(lost), why, "Give each the name of its image, or remove them.")


def _folders_inside(folder: Path, used: frozenset[Path]) -> Iterator[LeftOut]:
    """Folders with pictures inside a data folder.

    Args:
        used: folders that the config names itself.
    """
    inside = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name)]
    inside = [name for name in sorted(inside) if (folder / name).resolve() not in used and _has_pictures(folder / name)]
    repeated = [name for name in inside if NAMED_FOLDER.fullmatch(name)]
    if repeated:
        why = "Use train_data_dir for folders with such names."
        yield LeftOut(folder, tuple(repeated), why, f'Set train_data_dir = "{folder}" instead of image_dir.')
    others = [name for name in inside if name not in repeated]
    if others:
        why = "They contain images, but folders inside image_dir are not searched."
        remedy = f'Add a [[datasets.subsets]] for each, such as image_dir = "{folder / others[0]}".'
        yield LeftOut(folder, tuple(others), why, remedy)


def _has_pictures(folder: Path) -> bool:
    names = (name for _, _, files in os.walk(folder) for name in files)
    return any(is_picture(name) or Path(name).suffix.lower() in UNREAD for name in islice(names, MOST_COUNTED))


def _masks_of_nothing(masks: Path, folder: Path) -> Iterator[LeftOut]:
    stems = {picture.stem for picture in pictures_in(folder)}
    lost = [mask.name for mask in pictures_in(masks) if mask.stem not in stems]
    if lost:
        why = "These masks have no image of the same name."
        yield LeftOut(masks, tuple(lost), why, f"Give each the name of its image in {folder}.")
