"""Short names for content, so that what was computed from it can be found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SLICE = 1 << 16
"""Bytes read at each place of a large file."""
SLICES = 64
"""How many places of a large file are read."""


def of_file(path: Path) -> str:
    """SHA-256 of a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of_key(key: dict[str, Any]) -> str:
    """SHA-256 of anything that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def of_weights(paths: Iterable[Path]) -> str:
    """Fingerprint of large weight files: their sizes and slices all over them.

    Reading every byte of a text encoder takes minutes on a slow disk; other weights differ in every slice.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for index in range(SLICES):
                file.seek(index * size // SLICES)
                digest.update(file.read(SLICE))
    return digest.hexdigest()
