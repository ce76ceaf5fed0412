"""Several LoRAs as one. The sum of low-rank updates is a low-rank update: nothing is lost, ranks add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from library.adapters.changes import FileChange, MadeChange
from library.adapters.network import LayerWeights
from library.errors import ModelError

Layers = Mapping[str, LayerWeights]


def merged(loras: Sequence[Layers], strengths: Sequence[float]) -> dict[str, LayerWeights]:
    """One LoRA that acts like all of them together: their downs stacked, their ups side by side.

    Args:
        strengths: the strength of each, 1 as trained.

    Raises:
        ModelError: two of them have different shapes for one layer.
    """
    found: dict[str, list[tuple[LayerWeights, float]]] = {}
    for lora, strength in zip(loras, strengths, strict=True):
        for name, layer in lora.items():
            found.setdefault(name, []).append((layer, strength))
    return {name: _sum(name, parts) for name, parts in found.items()}


def added(loras: Sequence[Mapping[str, FileChange]], strengths: Sequence[float]) -> dict[str, FileChange]:
    """The same for files of any kind; a layer that is whole in one of them is whole in the sum.

    Raises:
        ModelError: see `merged`.
    """
    found: dict[str, list[tuple[FileChange, float]]] = {}
    for lora, strength in zip(loras, strengths, strict=True):
        for name, change in lora.items():
            found.setdefault(name, []).append((change, strength))
    return {name: _sum_of_any(name, parts) for name, parts in found.items()}


def _sum_of_any(name: str, parts: list[tuple[FileChange, float]]) -> FileChange:
    low = [(change, strength) for change, strength in parts if isinstance(change, LayerWeights)]
    if len(low) == len(parts):
        return _sum(name, low)
    _check_shapes(name, [change for change, _ in parts])
    nothing = torch.zeros(())
    return MadeChange(parts[0][0].shape, lambda: sum((strength * one.delta() for one, strength in parts), nothing))


def _check_shapes(name: str, changes: Sequence[FileChange]) -> None:
    first = changes[0].shape
    for shape in (change.shape for change in changes):
        if shape != first:
            raise ModelError(
                f"The LoRAs can't be merged: {name} is {first[0]} x {first[1]} in one and {shape[0]} x {shape[1]} in "
                "another.",
                "They were trained for different models.",
            )


def _sum(name: str, parts: list[tuple[LayerWeights, float]]) -> LayerWeights:
    _check_shapes(name, [layer for layer, _ in parts])
    scales = [strength * layer.alpha / layer.rank for layer, strength in parts]
    down = torch.cat([layer.down for layer, _ in parts])
    if len(set(scales)) == 1:  # alpha can say it, so that no weight is touched
        return LayerWeights(down, torch.cat([layer.up for layer, _ in parts], dim=1), scales[0] * len(down))
    ups = [layer.up * scale for (layer, _), scale in zip(parts, scales, strict=True)]
    return LayerWeights(down, torch.cat(ups, dim=1), float(len(down)))
