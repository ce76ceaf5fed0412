"""Metadata of LoRA files, ours and strangers': computes hashes, keeps it small, and shows it safely."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from torch import Tensor

from library.files.tensor_storage import tensors_as_bytes

LARGEST_WRITTEN = 1 << 20
"""Most bytes of names and metadata in a file that we write. ComfyUI does not show larger metadata."""
SPARE = 4096
"""How many of these bytes are kept free for the hashes."""

LEGACY_BEGIN, LEGACY_LENGTH = 1 << 20, 1 << 16
"""The old hash only reads 64 KiB after the first MiB; all shorter files have the hash of an empty text."""


def fitting(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> tuple[dict[str, str], list[str]]:
    """The metadata that fits into a file with these tensors, and the names of the rest; the longest go first."""
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


def hashes_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`sshs_model_hash`, `sshs_legacy_hash` and `modelspec.hash_sha256` of a file with these tensors.

    The first is SHA-256 of the file after its header, so metadata does not change it. The second reads fixed bytes of
    the file as it would be with only the `ss_` metadata.
    """
    ss = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    whole = tensors_as_bytes(tensors, ss)
    behind_header = 8 + int.from_bytes(whole[:8], "little")
    model = hashlib.sha256(whole[behind_header:]).hexdigest()
    legacy = hashlib.sha256(whole[LEGACY_BEGIN : LEGACY_BEGIN + LEGACY_LENGTH]).hexdigest()[:8]
    return {"sshs_model_hash": model, "sshs_legacy_hash": legacy, "modelspec.hash_sha256": f"0x{model}"}


def shown(text: str, most: int = 400) -> str:
    """A stranger's text for the terminal: on one line, without control characters, at most `most` characters."""
    cut = text[: most + 1]
    plain = "".join(sign if sign.isprintable() else " " for sign in cut)
    return plain if len(text) <= most else f"{plain[:most]}... ({len(text)} characters)"
