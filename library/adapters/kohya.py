"""kohya's layout of an SD3 LoRA, which ComfyUI, Forge and reForge load: names of the original model, fused qkv.

The original model computes q, k and v of a stream in one linear layer. Three low-rank updates of rank r become one of
rank 3r: their downs stacked, their ups on the diagonal, alpha three times as large.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from library.adapters.network import LayerWeights
from library.errors import ModelError

PREFIX = "lora_unet_joint_blocks"

FUSED = {
    "x_block_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block_attn2_qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}
"""Layers of the original model that are three in diffusers."""

SINGLE = {
    "x_block_attn_proj": "attn.to_out.0",
    "context_block_attn_proj": "attn.to_add_out",
    "x_block_attn2_proj": "attn2.to_out.0",
    "x_block_mlp_fc1": "ff.net.0.proj",
    "x_block_mlp_fc2": "ff.net.2",
    "context_block_mlp_fc1": "ff_context.net.0.proj",
    "context_block_mlp_fc2": "ff_context.net.2",
    "x_block_adaLN_modulation_1": "norm1.linear",
    "context_block_adaLN_modulation_1": "norm1_context.linear",
}
"""Layers that are one in both."""

SWAPPED_IN_LAST_BLOCK = "context_block_adaLN_modulation_1"
"""The last block's context modulation is (shift, scale) in the original and (scale, shift) in diffusers."""


def to_kohya(weights: Mapping[str, LayerWeights], blocks: int) -> dict[str, Tensor]:
    """The tensors of a kohya file, float32.

    Args:
        weights: by diffusers name, such as "transformer_blocks.0.attn.to_q".
        blocks: how many blocks the model has.

    Raises:
        ModelError: a layer has no name in the original model's blocks.
    """
    by_block: dict[int, dict[str, LayerWeights]] = {}
    for name, layer in weights.items():
        match = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", name)
        if not match:
            raise ModelError(
                f"The layer {name} lies outside the transformer blocks and has no place in kohya's layout."
            )
        by_block.setdefault(int(match[1]), {})[match[2]] = layer
    tensors: dict[str, Tensor] = {}
    for block, layers in sorted(by_block.items()):
        left = dict(layers)
        for original, parts in FUSED.items():
            members = [left.pop(part, None) for part in parts]
            if any(members):
                _put(tensors, f"{PREFIX}_{block}_{original}", _fused(members))
        for original, part in SINGLE.items():
            layer = left.pop(part, None)
            if layer:
                swap = original == SWAPPED_IN_LAST_BLOCK and block == blocks - 1
                up = torch.cat(layer.up.chunk(2)[::-1]) if swap else layer.up
                _put(tensors, f"{PREFIX}_{block}_{original}", LayerWeights(layer.down, up, layer.alpha))
        if left:
            raise ModelError(f"The layer transformer_blocks.{block}.{next(iter(left))} has no place in kohya's layout.")
    return tensors


def from_kohya(tensors: Mapping[str, Tensor], blocks: int, source: str) -> dict[str, LayerWeights]:
    """The layers of a kohya file by diffusers name; what `to_kohya` wrote comes back as it was.

    Raises:
        ModelError: a key is unknown, or half of a pair is missing.
    """
    weights: dict[str, LayerWeights] = {}
    for base in sorted({key.split(".", 1)[0] for key in tensors}):
        match = re.fullmatch(rf"{PREFIX}_(\d+)_(.+)", base)
        down, up = tensors.get(f"{base}.lora_down.weight"), tensors.get(f"{base}.lora_up.weight")
        if not match or match[2] not in {**FUSED, **SINGLE}:
            raise ModelError(f"{source} has a LoRA for {base}, which is no layer of an SD3 block.", "Is it for SD3?")
        if down is None or up is None or down.ndim != 2 or up.ndim != 2 or up.shape[1] != len(down):
            raise ModelError(f"{source}: the LoRA of {base} is incomplete.", "The file may be damaged; fetch it again.")
        alpha = float(tensors.get(f"{base}.alpha", torch.tensor(float(len(down)))))
        layer, block = LayerWeights(down.float(), up.float(), alpha), f"transformer_blocks.{match[1]}"
        if match[2] in FUSED:
            for part, split in zip(FUSED[match[2]], _split(layer, source, base), strict=True):
                weights[f"{block}.{part}"] = split
        else:
            if match[2] == SWAPPED_IN_LAST_BLOCK and int(match[1]) == blocks - 1:
                layer = LayerWeights(layer.down, torch.cat(layer.up.chunk(2)[::-1]), alpha)
            weights[f"{block}.{SINGLE[match[2]]}"] = layer
    return weights


def _put(tensors: dict[str, Tensor], base: str, layer: LayerWeights) -> None:
    tensors[f"{base}.lora_down.weight"] = layer.down
    tensors[f"{base}.lora_up.weight"] = layer.up
    tensors[f"{base}.alpha"] = torch.tensor(float(layer.alpha))


def _fused(members: list[LayerWeights | None]) -> LayerWeights:
    """One update of the stacked q, k, v from up to three updates of each."""
    present = [member for member in members if member]
    scales = [member.alpha / member.rank for member in present]
    rank = sum(member.rank for member in present)
    alike = max(scales) == min(scales)
    like = present[0]
    ups = []
    for member in members:
        if member is None:
            ups.append(torch.zeros(len(like.up), 0))
        else:
            ups.append(member.up if alike else member.up * (member.alpha / member.rank))
    down = torch.cat([member.down for member in present])
    return LayerWeights(down, torch.block_diag(*ups), scales[0] * rank if alike else float(rank))


def _split(fused: LayerWeights, source: str, base: str) -> list[LayerWeights]:
    """Three updates from one of the stacked q, k, v; a block-diagonal one loses its zeros again."""
    if len(fused.up) % 3:
        raise ModelError(
            f"{source}: the LoRA of {base} has {len(fused.up)} outputs, which is not three times anything."
        )
    ups = fused.up.chunk(3)
    if fused.rank % 3 == 0:
        columns = [torch.stack(up.chunk(3, dim=1)) for up in ups]
        others = [columns[part][other] for part in range(3) for other in range(3) if part != other]
        if not any(other.any() for other in others):
            downs = fused.down.chunk(3)
            parts = [column[index] for index, column in enumerate(columns)]
            return [LayerWeights(d, u.contiguous(), fused.alpha / 3) for d, u in zip(downs, parts, strict=True)]
    return [LayerWeights(fused.down, up, fused.alpha) for up in ups]
