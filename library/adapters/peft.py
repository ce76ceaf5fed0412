"""The layout that diffusers' `load_lora_weights` loads, for any family: PEFT's names, alpha folded into the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from library.adapters.network import LayerWeights
from library.errors import ModelError

PREFIX = "transformer."
FOLDED_SCALE = "purecc_folded_scale"
"""Metadata of our files: alpha / rank before it went into lora_B, so that alpha can be restored."""
PEFT_CONFIG = "lora_adapter_metadata"
"""Metadata in which diffusers keeps PEFT's configuration, alpha included."""


def to_peft(weights: Mapping[str, LayerWeights], text_encoders: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors of a diffusers file, float32; up is already multiplied by alpha / rank.

    Args:
        text_encoders: prefixes of the names of layers that are not the transformer's.
    """
    tensors = {}
    for name, layer in weights.items():
        base = name if name.startswith(text_encoders) else f"{PREFIX}{name}"
        tensors[f"{base}.lora_A.weight"] = layer.down
        tensors[f"{base}.lora_B.weight"] = layer.up * (layer.alpha / layer.rank)
    return tensors


def folded_scale(weights: Mapping[str, LayerWeights]) -> dict[str, str]:
    """The metadata for the scale, if all layers share one that can be undone without rounding."""
    scales = {layer.alpha / layer.rank for layer in weights.values()}
    scale = scales.pop() if len(scales) == 1 else 1.0
    return {FOLDED_SCALE: repr(scale)} if scale != 1.0 and _exact(scale) else {}


def unfolded(weights: dict[str, LayerWeights], metadata: Mapping[str, str]) -> dict[str, LayerWeights]:
    """The weights of a diffusers file with the scale from `folded_scale` back in alpha; the same updates."""
    try:
        scale = float(metadata.get(FOLDED_SCALE, 1.0))
    except ValueError:
        return weights
    if scale == 1.0 or not _exact(scale):
        return weights
    return {
        name: LayerWeights(layer.down, layer.up / scale, layer.alpha * scale) if layer.alpha == layer.rank else layer
        for name, layer in weights.items()
    }


def _exact(scale: float) -> bool:
    """Whether it is a moderate power of two, by which multiplying rounds nothing."""
    return math.isfinite(scale) and 2**-20 <= scale <= 2**20 and math.frexp(scale)[0] == 0.5


def peft_scales(
    metadata: Mapping[str, str], layers: Mapping[str, int], source: str, text_encoders: tuple[str, ...] = ()
) -> dict[str, float]:
    """alpha / rank of each layer, from PEFT's configuration as diffusers wrote it; without one, 1.

    Args:
        layers: the rank of each layer by its diffusers name.
        source: the file, for error messages.
        text_encoders: prefixes of the names of layers that are not the transformer's.

    Raises:
        ModelError: the configuration can't be read, or asks for more than a plain LoRA.
    """
    if PEFT_CONFIG not in metadata:
        return dict.fromkeys(layers, 1.0)
    try:
        config = json.loads(metadata[PEFT_CONFIG])
        return {
            name: _peft_scale(config, name, next(filter(name.startswith, text_encoders), PREFIX), rank, source)
            for name, rank in layers.items()
        }
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ModelError(
            f"{source}: its metadata {PEFT_CONFIG}, which has the LoRA's alpha, can't be read.",
            "Remove that entry if alpha equals the rank.",
        ) from error


def _peft_scale(config: Mapping[str, Any], name: str, part: str, rank: int, source: str) -> float:
    """alpha / rank of a layer in the part of the model with this prefix."""
    own = {key.removeprefix(part): value for key, value in config.items() if key.startswith(part)}
    if own.get("use_dora"):
        raise ModelError(f"{source} is a DoRA, which a plain LoRA can't represent.")
    if "lora_alpha" not in own:
        return 1.0
    alpha = float(own["lora_alpha"])
    for pattern, value in (own.get("alpha_pattern") or {}).items():
        if not pattern.replace("_", "").replace(".", "").isalnum():
            raise ModelError(f"{source}: the alpha pattern {pattern[:80]!r} is not a plain layer name.")
        if name == pattern or name.removeprefix(part) == pattern or name.endswith(f".{pattern}"):
            alpha = float(value)
    return alpha / (math.sqrt(rank) if own.get("use_rslora") else rank)
