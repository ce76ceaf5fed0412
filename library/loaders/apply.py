"""A file's changes, put on a model the way a UI does: as full weight updates, made layer by layer and let go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from library.loaders.rules import Patch, Reading


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, as UIs get them."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def delta(patches: tuple[Patch, ...], file: Mapping[str, Tensor], device: torch.device | None = None) -> Tensor:
    """The update of one diffusers layer, (out, in), float32."""
    total: Tensor | None = None
    for patch in patches:
        up, down = (file[key].to(device, torch.float32).flatten(1) for key in (patch.up, patch.down))
        if patch.rows:
            up = up[slice(*patch.rows)]
        one = patch.scale * (up @ down)
        if patch.turned:
            one = torch.cat(one.chunk(2)[::-1])
        total = one if total is None else total + one
    return total


@contextmanager
def patched(transformer: nn.Module, reading: Reading, file: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the transformer computes with the file's updates; its weights are never touched."""

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
