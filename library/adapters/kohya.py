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
from library.adapters.text_names import TEXT_ENCODERS, text_to_kohya
from library.errors import ModelError

PREFIX = "lora_unet_"
BLOCKS = "joint_blocks"

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

OUTSIDE = {
    "context_embedder": "context_embedder",
    "t_embedder_mlp_0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder_mlp_2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder_mlp_0": "time_text_embed.text_embedder.linear_1",
    "y_embedder_mlp_2": "time_text_embed.text_embedder.linear_2",
    "x_embedder_proj": "pos_embed.proj",
    "final_layer_linear": "proj_out",
    "final_layer_adaLN_modulation_1": "norm_out.linear",
}
"""Layers outside the transformer blocks. Our own LoRAs have none; those of other trainers may."""

PATCH = 2
"""Side of a patch of SD3: `pos_embed.proj` is a convolution of that size, all else is linear."""


def to_kohya(weights: Mapping[str, LayerWeights]) -> dict[str, Tensor]:
    """The tensors of a kohya file, float32.

    Args:
        weights: by diffusers name, such as "transformer_blocks.0.attn.to_q".

    Raises:
        ModelError: a layer has no name in the original model.
    """
    tensors: dict[str, Tensor] = {}
    outside = {part: original for original, part in OUTSIDE.items()}
    by_block: dict[int, dict[str, LayerWeights]] = {}
    for name, layer in weights.items():
        match = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", name)
        if match:
            by_block.setdefault(int(match[1]), {})[match[2]] = layer
        elif name in outside:
            put(tensors, f"{PREFIX}{outside[name]}", swapped(name, layer), convolution=name == "pos_embed.proj")
        elif name.startswith(TEXT_ENCODERS):
            put(tensors, text_to_kohya(name), layer)
        else:
            raise ModelError(f"The layer {name} has no place in kohya's layout.")
    for block, layers in sorted(by_block.items()):
        left = dict(layers)
        for original, parts in FUSED.items():
            members = [left.pop(part, None) for part in parts]
            if any(members):
                put(tensors, f"{PREFIX}{BLOCKS}_{block}_{original}", _fused(members))
        for original, part in SINGLE.items():
            layer = left.pop(part, None)
            if layer:
                put(tensors, f"{PREFIX}{BLOCKS}_{block}_{original}", swapped(part, layer))
        if left:
            raise ModelError(f"The layer transformer_blocks.{block}.{next(iter(left))} has no place in kohya's layout.")
    return tensors


def layers_of_original(original: str, layer: LayerWeights, source: str) -> dict[str, LayerWeights]:
    """The diffusers layers that one layer of the original model is, with their weights.

    Args:
        original: its name with underscores, such as "joint_blocks_0_x_block_attn_qkv".
        source: the file, for error messages.

    Raises:
        ModelError: the model has no such layer, or the shape can't be.
    """
    match = re.fullmatch(rf"{BLOCKS}_(\d+)_(.+)", original)
    if match and match[2] in FUSED:
        parts = zip(FUSED[match[2]], _split(layer, source, original), strict=True)
        return {f"transformer_blocks.{match[1]}.{part}": split for part, split in parts if split}
    if match and match[2] in SINGLE:
        part = SINGLE[match[2]]
        return {f"transformer_blocks.{match[1]}.{part}": swapped(part, layer)}
    if original in OUTSIDE:
        return {OUTSIDE[original]: swapped(OUTSIDE[original], layer)}
    raise ModelError(f"{source} has a LoRA for {original}, which is no layer of SD3.", "Is it for SD3?")


def swapped(name: str, layer: LayerWeights) -> LayerWeights:
    """The same update with shift and scale in the other model's order, where the two differ; twice, it is as it was.

    They differ in the modulation of the output and of the last block's context: layers that give (shift, scale) in the
    original and (scale, shift) in diffusers. Every other modulation gives 6 or 9 parts, in one order.
    """
    pair = name == "norm1_context.linear" and len(layer.up) == 2 * layer.down.shape[1]
    if not pair and name != "norm_out.linear":
        return layer
    return LayerWeights(layer.down, torch.cat(layer.up.chunk(2)[::-1]), layer.alpha)


def put(tensors: dict[str, Tensor], base: str, layer: LayerWeights, convolution: bool = False) -> None:
    """Adds a layer's three tensors under kohya's names."""
    down, up = as_convolution(layer) if convolution else (layer.down, layer.up)
    tensors[f"{base}.lora_down.weight"] = down
    tensors[f"{base}.lora_up.weight"] = up
    tensors[f"{base}.alpha"] = torch.tensor(float(layer.alpha))


def as_convolution(layer: LayerWeights) -> tuple[Tensor, Tensor]:
    """Down (rank, in, 2, 2) and up (out, rank, 1, 1) of the patch embedding, as files hold them."""
    return layer.down.reshape(layer.rank, -1, PATCH, PATCH), layer.up[:, :, None, None]


def _fused(members: list[LayerWeights | None]) -> LayerWeights:
    """One update of the stacked q, k, v from up to three updates of each."""
    present = [member for member in members if member]
    like = present[0]
    if all(member.alpha == like.alpha and torch.equal(member.down, like.down) for member in present[1:]):
        # All look at their input in the same way, as another trainer's do: one down serves all.
        rows = [torch.zeros_like(like.up) if member is None else member.up for member in members]
        return LayerWeights(like.down, torch.cat(rows), like.alpha)
    scales = [member.alpha / member.rank for member in present]
    rank, alike = sum(member.rank for member in present), max(scales) == min(scales)
    ups = []
    for member in members:
        if member is None:
            ups.append(torch.zeros(len(like.up), 0))
        else:
            ups.append(member.up if alike else member.up * (member.alpha / member.rank))
    down = torch.cat([member.down for member in present])
    return LayerWeights(down, torch.block_diag(*ups), scales[0] * rank if alike else float(rank))


def _split(fused: LayerWeights, source: str, base: str) -> list[LayerWeights | None]:
    """Three updates from one of the stacked q, k, v; a block-diagonal one loses its zeros again.

    None for a part that the file leaves alone.
    """
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
    used = [bool(up.any()) for up in ups]
    return [
        LayerWeights(fused.down, up, fused.alpha) if one or not any(used) else None
        for up, one in zip(ups, used, strict=True)
    ]
