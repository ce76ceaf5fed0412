"""The cache: everything that is computed once, keyed by everything that it depends on."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from library.errors import StorageError
from library.files import fingerprint
from library.files.atomic import InUse, write_tensors

Tensors = dict[str, Tensor]
HASH = "sha256"
"""The key of the metadata with the tensors' hash."""
MOST_HELD = 512 << 20
"""Most bytes of recently read tensors in memory: enough for a few pictures, not for ten thousand."""


class Cache:
    """A folder of safetensors files, each named after the content that it was computed from.

    Args:
        folder: may be shared by any number of runs.
        most_held: bytes that `at` may keep in memory.

    Attributes:
        held: bytes that it keeps there now.
    """

    def __init__(self, folder: str | Path, most_held: int = MOST_HELD) -> None:
        self.folder = Path(folder).expanduser()
        self.most_held = most_held
        self.held = 0
        self._held: OrderedDict[str, Tensors] = OrderedDict()

    def place(self, kind: str, key: dict[str, Any]) -> str:
        """The place in the folder for what is computed from `key`: short, and different for every key."""
        name = fingerprint.of_key(key)
        return f"{kind}/{name[:2]}/{name}.safetensors"

    def find(self, kind: str, key: dict[str, Any]) -> Tensors | None:
        """What was computed from `key`, or None. A file with a wrong hash counts as missing."""
        place = self.place(kind, key)
        try:
            content = self._read(place)
            length = int.from_bytes(content[:8], "little")
            kept = json.loads(content[8 : 8 + length])["__metadata__"][HASH]
            tensors = load(content)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
            return None
        if kept != fingerprint.of_tensors(tensors):
            return None
        with suppress(OSError):  # a read-only cache
            os.utime(self.folder / place)  # what was used last stays longest
        return tensors

    def put(self, kind: str, key: dict[str, Any], tensors: Tensors) -> None:
        """Keeps what was computed from `key`."""
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # Damage by a power cut is noticed and the entry computed again, so there is no need to wait for the disk.
        path = self.folder / self.place(kind, key)
        try:
            write_tensors(path, whole, {HASH: fingerprint.of_tensors(whole)}, durable=False)
        except InUse:  # another run is reading it, so it exists
            if not path.is_file():
                raise

    def get(self, kind: str, key: dict[str, Any], compute: Callable[[], Tensors]) -> Tensors:
        """What was computed from `key`; computed now if it is missing."""
        found = self.find(kind, key)
        if found is None:
            found = compute()
            self.put(kind, key, found)
        return found

    def at(self, place: str) -> Tensors:
        """What was found or put at a place before, not to be written to; in memory, or read now.

        Its hash was checked when it was found, so that a step does not wait for that again.

        Raises:
            StorageError: it has since been removed or damaged.
        """
        if place in self._held:
            self._held.move_to_end(place)
            return self._held[place]
        try:
            tensors = load(self._read(place))
        except (OSError, SafetensorError) as error:
            raise StorageError(
                f"The cache has lost a file of this run: {self.folder / place} can't be read ({error}).",
                "Run the same command with --resume auto to compute it again and continue.",
            ) from error
        self._held[place] = tensors
        self.held += _bytes_of(tensors)
        while self.held > self.most_held:
            self.held -= _bytes_of(self._held.popitem(last=False)[1])
        return tensors

    def _read(self, place: str) -> bytes:
        return (self.folder / place).read_bytes()  # not mapped: Windows could not replace the file then


def _bytes_of(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
