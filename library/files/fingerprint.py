"""Short names for content, so that what was computed from it can be found again."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SLICE = 1 << 16
"""Bytes read at each place of a large file."""
READ_AT_ONCE = 1 << 20
"""Bytes of a whole file that are in memory at a time."""
SLICES = 64
"""How many places of a large file are read."""


def of_file(path: Path) -> str:
    """SHA-256 of a whole file, of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(READ_AT_ONCE):
            digest.update(part)
    return digest.hexdigest()


def of_bytes(content: bytes) -> str:
    """SHA-256 of what a file holds."""
    return hashlib.sha256(content).hexdigest()


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors on the CPU: names, types, shapes and every bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def of_key(key: Any) -> str:
    """SHA-256 of anything that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def of_places(places: Sequence[tuple[Path, int, int]]) -> str:
    """Fingerprint of large weights: slices all over these parts of files, each from a byte up to another.

    Reading every byte of a text encoder takes minutes on a slow disk. Different weights differ in every slice.
    """
    ends = list(itertools.accumulate(end - begin for _, begin, end in places))
    size = ends[-1] if ends else 0
    digest = hashlib.sha256(str(size).encode())
    for index in range(SLICES if size else 0):
        at = index * size // SLICES
        path, _, end = places[place := bisect.bisect_right(ends, at)]
        begin = end - (ends[place] - at)
        with path.open("rb") as file:
            file.seek(begin)
            digest.update(file.read(min(SLICE, end - begin)))
    return digest.hexdigest()
