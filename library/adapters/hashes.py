"""The hashes by which UIs and sites recognise a LoRA file, computed as sd-scripts does."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

from library.files.tensor_storage import tensors_as_bytes

LEGACY_BEGIN, LEGACY_LENGTH = 1 << 20, 1 << 16
"""The old hash looks at 64 KiB behind the first MiB alone; shorter files all have the hash of nothing."""


def hashes_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`sshs_model_hash`, `sshs_legacy_hash` and `modelspec.hash_sha256` of a file with these tensors.

    The first is SHA-256 of the file behind its header, so metadata does not change it. The second looks at fixed bytes
    of the file as it would be with the `ss_` metadata alone.
    """
    ss = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    whole = tensors_as_bytes(tensors, ss)
    behind_header = 8 + int.from_bytes(whole[:8], "little")
    model = hashlib.sha256(whole[behind_header:]).hexdigest()
    legacy = hashlib.sha256(whole[LEGACY_BEGIN : LEGACY_BEGIN + LEGACY_LENGTH]).hexdigest()[:8]
    return {"sshs_model_hash": model, "sshs_legacy_hash": legacy, "modelspec.hash_sha256": f"0x{model}"}
