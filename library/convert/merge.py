"""Several LoRAs as one. The sum of low-rank updates is a low-rank update: nothing is lost, ranks add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from library.adapters.network import LayerWeights
from library.errors import ModelError

Layers = Mapping[str, LayerWeights]


def merged(loras: Sequence[Layers], strengths: Sequence[float]) -> dict[str, LayerWeights]:
    """One LoRA that does what all do at once: their downs stacked, their ups side by side.

    Args:
        strengths: how strongly each acts, 1 as trained.

    Raises:
        ModelError: two of them have different shapes for one layer.
    """
    found: dict[str, list[tuple[LayerWeights, float]]] = {}
    for lora, strength in zip(loras, strengths, strict=True):
        for name, layer in lora.items():
            found.setdefault(name, []).append((layer, strength))
    return {name: _sum(name, parts) for name, parts in found.items()}


def _sum(name: str, parts: list[tuple[LayerWeights, float]]) -> LayerWeights:
    first = parts[0][0]
    for layer, _ in parts:
        if layer.down.shape[1] != first.down.shape[1] or len(layer.up) != len(first.up):
            raise ModelError(
                f"The LoRAs can't be merged: {name} is {len(first.up)} x {first.down.shape[1]} in one and "
                f"{len(layer.up)} x {layer.down.shape[1]} in another.",
                "They were trained for different models.",
            )
    scales = [strength * layer.alpha / layer.rank for layer, strength in parts]
    down = torch.cat([layer.down for layer, _ in parts])
    if len(set(scales)) == 1:  # alpha can say it, so that no weight is touched
        return LayerWeights(down, torch.cat([layer.up for layer, _ in parts], dim=1), scales[0] * len(down))
    ups = [layer.up * scale for (layer, _), scale in zip(parts, scales, strict=True)]
    return LayerWeights(down, torch.cat(ups, dim=1), float(len(down)))
