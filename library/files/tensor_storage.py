"""Safetensors files: every tensor is written from its own memory and read into its own memory.

safetensors refuses tensors that share memory, as the q, k and v of one fused layer do. What it reads is a view of the
mapped file, which Windows can't replace while a single tensor of it is alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import Tensor


def owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, each the only one in its memory; others are not copied."""
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        memory = own.untyped_storage()
        if memory.nbytes() != own.nbytes or memory.data_ptr() in taken:
            own = own.clone()
        taken.add(own.untyped_storage().data_ptr())
        found[name] = own
    return found


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file in place; see `library.files.atomic` for one that appears whole."""
    save_file(owned(tensors), path, None if metadata is None else dict(metadata))


def tensors_as_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes that `save_tensors` would write."""
    return save(owned(tensors), None if metadata is None else dict(metadata))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, copied so that the file is free again, and metadata.

    Raises:
        SafetensorError: not a safetensors file, or damaged.
        OSError: it can't be read.
    """
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key).clone() for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
