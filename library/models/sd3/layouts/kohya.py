"""kohya's layout of an SD3 LoRA, which ComfyUI, Forge and reForge load: names of the original model, fused qkv.

The original model computes q, k and v of a stream in one linear layer. Three low-rank updates of rank r become one of
rank 3r, with their downs stacked, their ups on the diagonal, and alpha three times as large.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from library.adapters.changes import FileChange, MadeChange
from library.adapters.lora_names import by_own_names
from library.adapters.network import LayerWeights
from library.errors import ModelError
from library.models.sd3.layouts.text_encoders import TEXT_ENCODERS, text_to_kohya

PREFIX = "lora_unet_"
BLOCKS = "joint_blocks"
CHECKPOINT = "model.diffusion_model."
"""Start of the transformer's names in a single-file checkpoint; files with the transformer alone lack it."""

FUSED = {
    "x_block_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block_attn2_qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}
"""Layers of the original model that are three layers in diffusers."""

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
"""Layers that are one layer in both."""

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
"""Layers outside the transformer blocks. Our own LoRAs have none; other trainers' may."""

ORIGINAL_OF = {part: original for original, parts in FUSED.items() for part in parts}
ORIGINAL_OF |= {part: original for original, part in SINGLE.items()}
OUTSIDE_OF = {part: original for original, part in OUTSIDE.items()}
"""The reverse: by the diffusers layer, inside a block and outside."""

PATCH = 2
"""Side of a patch of SD3: `pos_embed.proj` is a convolution of that size, everything else is linear."""


def to_kohya(weights: Mapping[str, LayerWeights]) -> dict[str, Tensor]:
    """The tensors of a kohya file, float32.

    Args:
        weights: by diffusers name, such as "transformer_blocks.0.attn.to_q".

    Raises:
        ModelError: a layer has no name in the original model.
    """
    tensors: dict[str, Tensor] = {}
    for name in (name for name in weights if name.startswith(TEXT_ENCODERS)):
        put(tensors, text_to_kohya(name), weights[name])
    for original, names in by_original(name for name in weights if not name.startswith(TEXT_ENCODERS)).items():
        if isinstance(names, str):
            layer = weights[names]
            layer = layer.turned() if is_swapped(names, layer) else layer
            put(tensors, f"{PREFIX}{original}", layer, convolution=names == "pos_embed.proj")
        else:
            put(tensors, f"{PREFIX}{original}", _fused([weights[name] if name else None for name in names]))
    return tensors


def names_of_original(original: str) -> tuple[str, ...]:
    """The diffusers layers that make up one layer of the original model: three, one, or none if it has no such layer.

    Args:
        original: its name with underscores, such as "joint_blocks_0_x_block_attn_qkv"; "_0", "_1" or "_2" after qkv
            names one of the three.
    """
    match = re.fullmatch(rf"{BLOCKS}_([0-9]{{1,4}})_(\w+)", original)
    if not match:
        return (OUTSIDE[original],) if original in OUTSIDE else ()
    parts = FUSED.get(match[2]) or (SINGLE.get(match[2]),)
    whole, _, third = match[2].rpartition("_")
    if whole in FUSED and third in ("0", "1", "2"):
        parts = (FUSED[whole][int(third)],)
    return tuple(f"transformer_blocks.{match[1]}.{part}" for part in parts if part)


def from_original(original: str, change: FileChange, source: str) -> dict[str, FileChange]:
    """The diffusers layers that make up one layer of the original model, with their changes.

    Args:
        original: a name for which `names_of_original` has some.
        source: the file, for error messages.

    Raises:
        ModelError: the shape is impossible.
    """
    names = names_of_original(original)
    if len(names) == 1:
        return {names[0]: swapped(names[0], change)}
    return {name: part for name, part in zip(names, _split(change, source, original), strict=True) if part}


def by_original(names: Iterable[str]) -> dict[str, str | tuple[str | None, ...]]:
    """The layers of the original model, each with its one or three diffusers layers; None in place of a missing one of
    three.

    Raises:
        ModelError: a layer has no place in the original model.
    """
    given = dict.fromkeys(names)
    found: dict[str, str | tuple[str | None, ...]] = {}
    for name in given:
        match = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", name)
        part = match[2] if match else name
        original = ORIGINAL_OF.get(part) if match else OUTSIDE_OF.get(part)
        if original is None:
            raise ModelError(f"The layer {name} has no place in kohya's layout.")
        if match is None:
            found[original] = name
        elif original in FUSED:
            all_names = [f"transformer_blocks.{match[1]}.{one}" for one in FUSED[original]]
            found[f"{BLOCKS}_{match[1]}_{original}"] = tuple(one if one in given else None for one in all_names)
        else:
            found[f"{BLOCKS}_{match[1]}_{original}"] = name
    return found


def fused_layer(layer: str) -> str | None:
    """The layer of the original model that a diffusers layer is a third of; None if it is a layer there, too."""
    match = re.fullmatch(r"(transformer_blocks\.\d+\.)(.+)", layer)
    fused = next((original for original, parts in FUSED.items() if match and match[2] in parts), None)
    return f"{match[1]}{fused}" if match and fused else None


def in_checkpoint(
    changes: Mapping[str, FileChange], weights: Collection[str]
) -> tuple[dict[str, FileChange], list[str]]:
    """The weights of a checkpoint that the changed layers belong to, and the layers without a place there.

    Args:
        changes: by diffusers name.
        weights: names in the checkpoint, in the original model's layout or in diffusers'.

    Raises:
        ModelError: q, k and v have different sizes.
    """
    begin = CHECKPOINT if any(name.startswith(CHECKPOINT) for name in weights) else ""
    if not any(name.startswith(f"{begin}{BLOCKS}.") for name in weights):
        return by_own_names(changes, weights)
    layers = by_original(changes)
    found: dict[str, FileChange] = {}
    for name in weights:
        original = name.removeprefix(begin).removesuffix(".weight").replace(".", "_")
        if name.startswith(begin) and name.endswith(".weight") and original in layers:
            found[name] = _stacked(layers.pop(original), changes)
    return found, sorted(layers)


def _stacked(names: str | Sequence[str | None], changes: Mapping[str, FileChange]) -> FileChange:
    """The change of one layer of the original model, from the changes of its diffusers layers."""
    if isinstance(names, str):
        return swapped(names, changes[names])
    parts = [changes[name] if name else None for name in names]
    sizes = {part.shape for part in parts if part}
    if len(sizes) > 1:
        raise ModelError(
            f"The LoRA's {', '.join(name for name in names if name)} have different sizes, which q, k and v never have."
        )
    ((outputs, inputs),) = sizes

    def delta() -> Tensor:
        return torch.cat([part.delta() if part else torch.zeros(outputs, inputs) for part in parts])

    return MadeChange((3 * outputs, inputs), delta)


def swapped(name: str, change: FileChange) -> FileChange:
    """The same update with shift and scale in the other model's order, where the two differ. Twice undoes it."""
    return change.turned() if is_swapped(name, change) else change


def is_swapped(name: str, change: FileChange) -> bool:
    """Whether shift and scale of a layer are in a different order in the other model.

    They differ in the modulation of the output and of the last block's context: these layers return (shift, scale) in
    the original and (scale, shift) in diffusers. Every other modulation returns 6 or 9 parts, in the same order.
    """
    pair = name.endswith("norm1_context.linear") and change.shape[0] == 2 * change.shape[1]
    return pair or name == "norm_out.linear"


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
        # All read their input in the same way, as another trainer's do, so one down serves all.
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


def _split(fused: FileChange, source: str, base: str) -> Sequence[FileChange | None]:
    """Three updates from one of the stacked q, k, v; a block-diagonal one loses its zeros.

    None for a part that the file does not change.
    """
    outputs = fused.shape[0]
    if outputs % 3:
        raise ModelError(f"{source}: the LoRA of {base} has {outputs} outputs, which is not a multiple of three.")
    if not isinstance(fused, LayerWeights):
        return [fused.rows(outputs * part // 3, outputs * (part + 1) // 3) for part in range(3)]
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
