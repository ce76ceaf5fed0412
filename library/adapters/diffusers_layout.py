"""The layout that diffusers' `load_lora_weights` loads: PEFT's names, alpha folded in, no alpha tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from library.adapters.network import LayerWeights
from library.errors import ModelError

PREFIX = "transformer."


def to_diffusers(weights: Mapping[str, LayerWeights]) -> dict[str, Tensor]:
    """The tensors of a diffusers file, float32: up already times alpha / rank."""
    tensors = {}
    for name, layer in weights.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.down
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.up * (layer.alpha / layer.rank)
    return tensors


def from_diffusers(tensors: Mapping[str, Tensor], source: str) -> dict[str, LayerWeights]:
    """The layers of a diffusers file, alpha equal to rank.

    Raises:
        ModelError: half of a pair is missing.
    """
    weights = {}
    for key, down in tensors.items():
        name = key.removesuffix(".lora_A.weight")
        if name == key:
            continue
        up = tensors.get(f"{name}.lora_B.weight")
        if up is None or down.ndim != 2 or up.ndim != 2 or up.shape[1] != len(down):
            raise ModelError(f"{source}: the LoRA of {name} is incomplete.", "The file may be damaged; fetch it again.")
        weights[name.removeprefix(PREFIX)] = LayerWeights(down.float(), up.float(), float(len(down)))
    return weights
