"""A .safetensors file, mapped into memory. Opening it only reads and checks the header."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from library.errors import ModelError

LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of a value, by the format's name of its type."""
OTHER_FORMATS = {
    b"PK\x03\x04": "a pickled checkpoint (.ckpt, .pt), which can run any code when opened",
    b"\x80\x02": "a pickled checkpoint (.ckpt, .pt), which can run any code when opened",
    b"GGUF": "a GGUF file, whose weights are quantised",
    b"version https://git-lfs": "a Git LFS pointer instead of the file itself",
    b"<": "a web page instead of a model: the download needs a login, or you saved the download page",
    b"{": "a JSON file instead of a model",
}
"""The kind of a file that starts with these bytes."""
DOWNLOAD_AGAIN = "Download it again."


@dataclass(frozen=True)
class Entry:
    """The header's entry for one tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    """Its byte range in the file."""


Entries = Mapping[str, Entry]
"""A header's entries, by the tensor's name."""


def have(entries: Entries, *parts: str) -> bool:
    """Whether a name contains one of these."""
    return any(part in name for name in entries for part in parts)


def begin_with(entries: Entries, *parts: str) -> bool:
    """Whether a name starts with one of these, with or without ComfyUI's prefix for the diffusion model."""
    return any(name.removeprefix("model.diffusion_model.").startswith(parts) for name in entries)


class TensorFile:
    """Tensors by name, each read on demand.

    Raises:
        ModelError: no such file, or not a whole safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = read_entries(path)
        self._open: Any = None

    def read(self, name: str) -> Tensor:
        """A tensor as the file stores it, on the CPU: a view of the mapped file, not to be written to."""
        if self._open is None:
            from safetensors import safe_open

            self._open = safe_open(self.path, framework="pt")
        return self._open.get_tensor(name)


def read_entries(path: Path) -> dict[str, Entry]:
    """The checked header of a safetensors file.

    Raises:
        ModelError: see `TensorFile`.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(max(map(len, OTHER_FORMATS)))
            _refuse_other_formats(path, begin, size)
            (length,) = struct.unpack("<Q", begin[:8])
            if length > LONGEST_HEADER:
                raise ModelError(f"{path} is not a safetensors file, or it is damaged.", DOWNLOAD_AGAIN)
            if 8 + length > size:
                raise ModelError(f"{path} is cut off inside its header.", DOWNLOAD_AGAIN)
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}.") from error
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = {name: _entry(about, 8 + length) for name, about in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: its header is invalid.", DOWNLOAD_AGAIN) from error
    _check_places(path, entries, 8 + length, size)
    return entries


def _refuse_other_formats(path: Path, begin: bytes, size: int) -> None:
    # In a safetensors file these bytes are the header's length and can be anything; the header follows.
    for mark, what in OTHER_FORMATS.items() if begin[8:9] != b"{" else ():
        if begin.lstrip().startswith(mark) if mark == b"<" else begin.startswith(mark):
            raise ModelError(f"{path} is {what}.", "A .safetensors file is needed.")
    if size < 8:
        raise ModelError(f"{path} is empty." if not size else f"{path} is not a safetensors file.", DOWNLOAD_AGAIN)


def _entry(about: Any, data: int) -> Entry:
    """One entry of the header; ValueError if it contradicts itself."""
    shape, (begin, end) = tuple(about["shape"]), about["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError("not a size")
    if math.prod(shape) * BITS[about["dtype"]] != 8 * (end - begin):
        raise ValueError("shape and place differ")
    return Entry(about["dtype"], shape, data + begin, data + end)


def _check_places(path: Path, entries: dict[str, Entry], data: int, size: int) -> None:
    """Tensors must fill the file without gap or overlap, as the format demands."""
    if not entries:
        raise ModelError(f"{path} contains no tensors.", DOWNLOAD_AGAIN)
    at = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            raise ModelError(f"{path} is damaged: {name} is in the wrong place.", DOWNLOAD_AGAIN)
        at = entry.end
    if at > size:
        raise ModelError(f"{path} is incomplete: {at - size:,} of {at:,} bytes are missing.", DOWNLOAD_AGAIN)
    if at < size:
        raise ModelError(f"{path} is damaged: it has {size - at:,} extra bytes at its end.", DOWNLOAD_AGAIN)
