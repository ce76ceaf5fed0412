"""The cache: what is computed once, found again by everything that it depends on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from library import fingerprint
from library.atomic import write_tensors

Tensors = dict[str, Tensor]
HASH = "sha256"
"""The metadata that says what the tensors hash to."""


class Cache:
    """A folder of safetensors files, each named by the content that it was computed from.

    Args:
        folder: may be shared by any number of runs.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def find(self, kind: str, key: dict[str, Any]) -> Tensors | None:
        """What was computed from `key`, or None. A damaged file, which its hash tells, counts as not there."""
        try:
            content = self._path(kind, key).read_bytes()  # not mapped: Windows could not replace the file then
            length = int.from_bytes(content[:8], "little")
            kept = json.loads(content[8 : 8 + length])["__metadata__"][HASH]
            tensors = load(content)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
            return None
        return tensors if kept == fingerprint.of_tensors(tensors) else None

    def put(self, kind: str, key: dict[str, Any], tensors: Tensors) -> None:
        """Keeps what was computed from `key`."""
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # What a power cut damages is noticed and made again, so nobody has to wait for the disk.
        write_tensors(self._path(kind, key), whole, {HASH: fingerprint.of_tensors(whole)}, durable=False)

    def get(self, kind: str, key: dict[str, Any], compute: Callable[[], Tensors]) -> Tensors:
        """What was computed from `key`, computed now if it is not there."""
        found = self.find(kind, key)
        if found is None:
            found = compute()
            self.put(kind, key, found)
        return found

    def _path(self, kind: str, key: dict[str, Any]) -> Path:
        name = fingerprint.of_key(key)
        return self.folder / kind / name[:2] / f"{name}.safetensors"
