"""Whether a picture's file is complete, told by its structure alone: no pixel is decoded."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

END_OF_JPEG = b"\xff\xd9"
"""The marker after a JPEG's pixels, which can't contain it: there, 0 follows every 255."""
TAIL = 1 << 16
"""Bytes at the end of a JPEG that usually contain the marker; phones append more."""
OFFSETS_AND_LENGTHS = ((273, 279), (324, 325))
"""TIFF's tags for where strips, or tiles, begin and how many bytes each has."""
BEGIN_OF_AVIF = 16
"""Bytes in which a part of an AVIF says how long it is."""


def seems_cut_off(file: ImageFile.ImageFile, path: Path) -> bool:
    """Whether the file is truncated. WebP isn't checked: PIL doesn't open a truncated one.

    Args:
        file: as just opened by PIL.
        path: of it.
    """
    looks = {
        "PNG": lambda: list(png_chunks(path))[-1:] != [b"IEND"],
        "JPEG": lambda: not _has_end_of_jpeg(path, _read_to(file)),
        "MPO": lambda: not _has_end_of_jpeg(path, 0),
        "BMP": lambda: _length_in_bmp(path) > path.stat().st_size,
        "TIFF": lambda: _end_of_tiff(file) > path.stat().st_size,
        "AVIF": lambda: _end_of_avif(path) > path.stat().st_size,
        "HEIF": lambda: _end_of_avif(path) > path.stat().st_size,  # the same container
    }
    return file.format in looks and looks[file.format]()


def png_chunks(path: Path) -> Iterator[bytes]:
    """The types of a PNG's chunks, in order, as far as they are complete."""
    with path.open("rb") as file:
        file.seek(8)
        while len(begin := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", begin)
            yield kind
            if kind == b"IEND":
                return
            file.seek(length + 4, os.SEEK_CUR)


def _has_end_of_jpeg(path: Path, pixels: int) -> bool:
    """Whether the marker is anywhere after the start of the pixels."""
    with path.open("rb") as file:
        file.seek(max(pixels, path.stat().st_size - TAIL))
        if END_OF_JPEG in file.read():
            return True
        file.seek(pixels)
        return END_OF_JPEG in file.read()


def _length_in_bmp(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(6)[2:], "little")


def _read_to(file: ImageFile.ImageFile) -> int:
    """How far PIL has read: to the start of the pixels."""
    assert file.fp is not None, "it is open"
    return file.fp.tell()


def _end_of_tiff(file: ImageFile.ImageFile) -> int:
    assert isinstance(file, TiffImageFile), "PIL opens no TIFF as anything else"
    ends = [
        begin + length
        for offsets, lengths in OFFSETS_AND_LENGTHS
        for begin, length in zip(file.tag_v2.get(offsets, ()), file.tag_v2.get(lengths, ()), strict=False)
    ]
    return max(ends, default=0)


def _end_of_avif(path: Path) -> int:
    """The end of its last part, by its own header."""
    with path.open("rb") as file:
        at = 0
        while len(begin := file.read(BEGIN_OF_AVIF)) >= 8:
            length = int.from_bytes(begin[:4], "big")
            if length == 1:
                length = int.from_bytes(begin[8:], "big")
            if length < 8:  # 0: to the end of the file
                break
            at += length
            file.seek(at)
    return at
