"""The linear layers of an SD3 model under both names, the original model's and diffusers'."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn

INSIDE = {
    "attn.to_q": ("x_block.attn.qkv", 0),
    "attn.to_k": ("x_block.attn.qkv", 1),
    "attn.to_v": ("x_block.attn.qkv", 2),
    "attn.add_q_proj": ("context_block.attn.qkv", 0),
    "attn.add_k_proj": ("context_block.attn.qkv", 1),
    "attn.add_v_proj": ("context_block.attn.qkv", 2),
    "attn2.to_q": ("x_block.attn2.qkv", 0),
    "attn2.to_k": ("x_block.attn2.qkv", 1),
    "attn2.to_v": ("x_block.attn2.qkv", 2),
    "attn.to_out.0": ("x_block.attn.proj", None),
    "attn2.to_out.0": ("x_block.attn2.proj", None),
    "attn.to_add_out": ("context_block.attn.proj", None),
    "norm1.linear": ("x_block.adaLN_modulation.1", None),
    "norm1_context.linear": ("context_block.adaLN_modulation.1", None),
    "ff.net.0.proj": ("x_block.mlp.fc1", None),
    "ff.net.2": ("x_block.mlp.fc2", None),
    "ff_context.net.0.proj": ("context_block.mlp.fc1", None),
    "ff_context.net.2": ("context_block.mlp.fc2", None),
}
"""Layers of a block in diffusers: the layer of the original, and which third of its outputs."""

OUTSIDE = {
    "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
"""Linear layers outside the blocks."""


@dataclass(frozen=True)
class Place:
    """Where a diffusers layer is in the original model.

    Args:
        original: the layer, such as "joint_blocks.0.x_block.attn.qkv".
        rows: the first of its outputs, and one past the last.
        turned: the two halves of the outputs are swapped.
    """

    original: str
    rows: tuple[int, int]
    turned: bool = False


@dataclass(frozen=True)
class ModelShape:
    """The layers of one model.

    Args:
        places: by diffusers name.
        dual_attention: whether it has attn2, as SD 3.5 Medium does and its siblings don't.
        normed: whether queries and keys have norms, as in SD 3.5 and not in SD 3 Medium.
    """

    places: Mapping[str, Place]
    dual_attention: bool
    normed: bool

    @cached_property
    def originals(self) -> dict[str, list[str]]:
        """The original layers, each with the diffusers layers that make it up."""
        found: dict[str, list[str]] = {}
        for name, place in self.places.items():
            found.setdefault(place.original, []).append(name)
        return found


def shape_of(transformer: nn.Module) -> ModelShape:
    """The layers of a diffusers transformer; a wrapped layer counts as the layer inside."""
    outputs = {
        name.removesuffix(".base"): layer.out_features
        for name, layer in transformer.named_modules()
        if hasattr(layer, "out_features")  # quantised layers are not nn.Linear
    }
    blocks = 1 + max(int(name.split(".")[1]) for name in outputs if name.startswith("transformer_blocks."))
    places = {}
    for name, count in outputs.items():
        match = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", name)
        if match and match[2] in INSIDE:
            original, third = INSIDE[match[2]]
            rows = (0, count) if third is None else (third * count, (third + 1) * count)
            turned = match[2] == "norm1_context.linear" and int(match[1]) == blocks - 1
            places[name] = Place(f"joint_blocks.{match[1]}.{original}", rows, turned)
        elif name in OUTSIDE:
            places[name] = Place(OUTSIDE[name], (0, count), name == "norm_out.linear")
    normed = any(name.endswith(".attn.norm_q") for name, _ in transformer.named_modules())
    return ModelShape(places, any(".attn2." in name for name in places), normed)
