"""Picture files: which files of a folder are pictures, and the one door through which each of them is opened."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageFile, UnidentifiedImageError

from library.errors import DataError, PureCCError

IMAGE_ENDINGS = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".avif"}
)
"""Endings of picture files, in lower case."""
HEIF_ENDINGS = frozenset({".heic", ".heif", ".hif"})
"""Endings that are pictures where pillow-heif is installed."""
INSTALL_HEIF = "Run `pip install pillow-heif`, or save as JPEG."
OF_SYSTEMS = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information"}
)
"""What Windows, macOS and network drives put into folders, in lower case, apart from names that begin with a dot."""
BRANDS_OF_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"mif1", b"msf1")
SIGNATURES = (
    (b"\xff\x0a", "is a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "is a JPEG XL image"),
    (b"version https://git-lfs", "is a Git LFS pointer; the image itself was not downloaded"),
    (b"%PDF", "is a PDF"),
    (b"PK\x03\x04", "is a ZIP archive"),
    (b"\x1aE\xdf\xa3", "is a video"),
    (b"<svg", "is an SVG drawing"),
    (b"<?xml", "is an XML file"),
    (b"<!doctype html", "is a web page"),
    (b"<html", "is a web page"),
)
"""First bytes, in lower case if they are text, of files that only look like pictures by their endings."""
MOST_SAID = 200
"""Most characters of a Pillow error in a message."""
LOOKED_AT = 64
"""Bytes at the start of a file that say what it is."""

T = TypeVar("T")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to the system, such as .DS_Store, ._dog.png or Thumbs.db."""
    return name.startswith(".") or name.lower() in OF_SYSTEMS


@cache
def reads_heif() -> bool:
    """Whether pillow-heif is installed. If so, Pillow opens phones' HEIC pictures from then on."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def is_picture(name: str) -> bool:
    """Whether a file of this name is read as a picture."""
    ending = Path(name).suffix.lower()
    return not is_hidden(name) and (ending in IMAGE_ENDINGS or (ending in HEIF_ENDINGS and reads_heif()))


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, by name, without hidden files and folders inside it."""
    return sorted(file for file in folder.iterdir() if is_picture(file.name) and file.is_file())


def read_bytes(path: Path) -> bytes:
    """The bytes of a picture file. The same bytes are hashed and decoded, even if another program writes to it.

    Raises:
        DataError: it can't be read or no longer exists.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error, b"") from error


def opened(path: Path, convert: Callable[[ImageFile.ImageFile], T], content: bytes | None = None) -> T:
    """The result of `convert` for a picture file. Pillow raises all kinds of errors for damaged files; here it is one.

    Args:
        content: what `read_bytes` gave, if it was read already.

    Raises:
        DataError: not a picture, cut off, or suspiciously huge; and whatever `convert` finds wrong.
    """
    reads_heif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path if content is None else BytesIO(content)) as file:
                return convert(file)
    except (PureCCError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        most = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise DataError(
            f"The image {path} claims to have more than {most:.0f} million pixels, so it is not opened: even a tiny "
            "file can claim a size that fills the memory.",
            "Make it smaller, or remove it. Training shrinks images to the training resolution anyway.",
        ) from error
    except Exception as error:  # there is no list of what Pillow raises: TypeError and struct.error are among it
        raise _unreadable(path, error, content) from error


def _unreadable(path: Path, error: Exception, content: bytes | None) -> DataError:
    remedy = "Save it as PNG or JPEG again, or remove it."
    if isinstance(error, OSError) and error.strerror:
        why = error.strerror
    elif isinstance(error, UnidentifiedImageError):
        why, remedy = _what_it_is(_begin_of(path) if content is None else content[:LOOKED_AT], remedy)
    else:
        said = " ".join(str(error).split()) or type(error).__name__
        why = f"it is damaged ({said[:MOST_SAID]})"
    return DataError(f"The image {path} can't be read: {why}.", remedy)


def _begin_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LOOKED_AT)
    except OSError:
        return b"?"


def _what_it_is(begin: bytes, remedy: str) -> tuple[str, str]:
    """What kind of file it is that Pillow can't read, and what to do."""
    if not begin:
        return "it is empty", "Copy or download it again, or remove it."
    if begin[4:8] == b"ftyp":
        if begin[8:12] in BRANDS_OF_HEIF and b"avif" not in begin:
            return ("it is a damaged HEIC image", remedy) if reads_heif() else ("it is a HEIC image", INSTALL_HEIF)
        return "it is a video, or an image in an unknown format", remedy
    start = begin.lstrip().lower()
    known = next((what for mark, what in SIGNATURES if begin.startswith(mark) or start.startswith(mark)), None)
    return (f"it {known}" if known else "it is not an image, or it is damaged"), remedy
