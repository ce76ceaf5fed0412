"""OneTrainer's layout, which SD.Next reads directly: diffusers' names with underscores, and alpha."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from library.adapters.network import LayerWeights
from library.models.sd3.layouts.kohya import FUSED, OUTSIDE, SINGLE, put
from library.models.sd3.layouts.text_encoders import TEXT_ENCODERS, text_to_kohya

PREFIX = "lora_transformer_"


def to_onetrainer(weights: Mapping[str, LayerWeights]) -> dict[str, Tensor]:
    """The tensors of a file in OneTrainer's layout, float32."""
    tensors: dict[str, Tensor] = {}
    for name, layer in weights.items():
        is_text = name.startswith(TEXT_ENCODERS)
        base = text_to_kohya(name) if is_text else f"{PREFIX}{name.replace('.', '_')}"
        put(tensors, base, layer, convolution=name == "pos_embed.proj")
    return tensors


def with_dots(name: str) -> str | None:
    """A layer's diffusers name, given the one with underscores; None if SD3 has no such layer."""
    known = {layer.replace(".", "_"): layer for layer in OUTSIDE.values()}
    if name in known:
        return known[name]
    _, _, rest = name.partition("transformer_blocks_")
    block, _, part = rest.partition("_")
    inside = [layer for layers in FUSED.values() for layer in layers] + list(SINGLE.values())
    parts = {layer.replace(".", "_"): layer for layer in inside}
    if not name.startswith("transformer_blocks_") or not re.fullmatch(r"[0-9]{1,4}", block) or part not in parts:
        return None
    return f"transformer_blocks.{block}.{parts[part]}"
