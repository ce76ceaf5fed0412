"""The cache: what is computed once, found again by everything that it depends on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from library import fingerprint
from library.atomic import write_tensors

Tensors = dict[str, Tensor]


class Cache:
    """A folder of safetensors files, each named by the content that it was computed from.

    Args:
        folder: may be shared by any number of runs.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def find(self, kind: str, key: dict[str, Any]) -> Tensors | None:
        """What was computed from `key`, or None. A damaged file counts as not there."""
        try:
            return load_file(self._path(kind, key))
        except (OSError, SafetensorError):
            return None

    def put(self, kind: str, key: dict[str, Any], tensors: Tensors) -> None:
        """Keeps what was computed from `key`."""
        write_tensors(self._path(kind, key), tensors)

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
