"""Applies a file's changes to a model as a UI does: as full weight updates, computed and released layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from library.adapters.uis.loaders import Patch, UiReading
from library.files.tensor_storage import read_tensors


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, as UIs read them."""
    return read_tensors(path)


def factors(
    patches: tuple[Patch, ...], file: Mapping[str, Tensor], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """The update of one diffusers layer as a product: (out, rank) including the scale, and (rank, in), float32."""
    ups, downs = [], []
    for patch in patches:
        up, down = (file[key].to(device, torch.float32).flatten(1) for key in (patch.up, patch.down))
        up = patch.scale * (up[slice(*patch.rows)] if patch.rows else up)
        ups.append(torch.cat(up.chunk(2)[::-1]) if patch.turned else up)
        downs.append(down)
    return torch.cat(ups, dim=1), torch.cat(downs)


def delta(patches: tuple[Patch, ...], file: Mapping[str, Tensor], device: torch.device | None = None) -> Tensor:
    """The update of one diffusers layer, (out, in), float32."""
    up, down = factors(patches, file, device)
    return up @ down


def length(up: Tensor, down: Tensor) -> float:
    """Frobenius norm of up @ down, without computing the product, which has millions of numbers in a large model."""
    up, down = up.double(), down.double()
    return float(((up.T @ up) * (down @ down.T)).sum().clamp_min(0).sqrt())


@contextmanager
def patched(transformer: nn.Module, reading: UiReading, file: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the transformer computes with the file's updates; its weights don't change."""

    def added(patches: tuple[Patch, ...]) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
            x = inputs[0]
            return out + nn.functional.linear(x, delta(patches, file, x.device).to(x.dtype))

        return hook

    hooks = [
        transformer.get_submodule(layer).register_forward_hook(added(patches))
        for layer, patches in reading.patches.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
