"""Metadata of LoRA files, ours and strangers': kept small, and shown so that it can do no harm."""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch import Tensor

LARGEST_WRITTEN = 1 << 20
"""Bytes of names and metadata in a file that we write: ComfyUI shows the metadata of no larger ones."""
SPARE = 4096
"""Bytes of them that are left for the hashes."""


def fitting(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> tuple[dict[str, str], list[str]]:
    """What of the metadata fits into a file with these tensors, and names of what does not; the longest go first."""
    names = {
        name: {"dtype": "BF16", "shape": list(one.shape), "data_offsets": [10**12, 10**12]}
        for name, one in tensors.items()
    }
    room = LARGEST_WRITTEN - SPARE - len(json.dumps(names))
    kept, dropped = dict(metadata), []
    while kept and len(json.dumps(kept)) > room:
        longest = max(kept, key=lambda name: len(kept[name]))
        dropped.append(longest)
        del kept[longest]
    return kept, dropped


def shown(text: str, most: int = 400) -> str:
    """A stranger's text for the terminal: on one line, without control characters, and not longer than `most`."""
    cut = text[: most + 1]
    plain = "".join(sign if sign.isprintable() else " " for sign in cut)
    return plain if len(text) <= most else f"{plain[:most]}... ({len(text)} characters)"
