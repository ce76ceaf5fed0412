"""Writes a model in diffusers format as one .safetensors file for ComfyUI: python -m tools.single_file FOLDER FILE"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from library.files.atomic import write_tensors

PREFIXES = {
    "transformer": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder_2": "text_encoders.clip_g.transformer.",
    "text_encoder_3": "text_encoders.t5xxl.transformer.",
}
TRANSFORMER_NAMES = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
BLOCK_NAMES = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
FUSED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}
VAE_NAMES = [
    (r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
]


def transformer_for_comfyui(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformer's weights under Stability's names, without prefix: q, k, v fused, two modulations turned round."""
    blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("transformer_blocks."))
    turned = ("norm_out.linear", f"transformer_blocks.{blocks - 1}.norm1_context.linear")
    made = {}
    for name, tensor in weights.items():
        module, _, kind = name.rpartition(".")
        if name in TRANSFORMER_NAMES:
            made[TRANSFORMER_NAMES[name]] = tensor
            continue
        tensor = torch.cat(tensor.chunk(2)[::-1]) if module in turned else tensor
        if module in TRANSFORMER_NAMES:
            made[f"{TRANSFORMER_NAMES[module]}.{kind}"] = tensor
            continue
        block, inner = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module).groups()
        if inner in BLOCK_NAMES:
            made[f"joint_blocks.{block}.{BLOCK_NAMES[inner]}.{kind}"] = tensor
            continue
        fused, members = next((fused, members) for fused, members in FUSED.items() if inner in members)
        key = f"joint_blocks.{block}.{fused}.{kind}"
        made[key] = torch.cat([weights[f"transformer_blocks.{block}.{member}.{kind}"] for member in members])
    return made


def vae_for_comfyui(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A VAE's weights under the names of the first latent diffusion models, without prefix."""
    last = max(int(found[1]) for name in weights if (found := re.search(r"up_blocks\.(\d+)\.", name)))
    made = {}
    for name, tensor in weights.items():
        key = re.sub(r"up_blocks\.(\d+)\.", lambda found: f"up.{last - int(found[1])}.", name)
        key = key.replace("upsamplers.0", "upsample") if ".up." in key else key
        key = re.sub(r"(up\.\d+)\.resnets\.(\d+)", r"\1.block.\2", key)
        for pattern, new in VAE_NAMES:
            key = re.sub(pattern, new, key)
        linear = ".mid.attn_1." in key and tensor.ndim == 2
        made[key] = tensor[:, :, None, None] if linear else tensor
    return made


def single_file(folder: Path, parts: Sequence[str] = tuple(PREFIXES)) -> dict[str, Tensor]:
    """Parts of a model in diffusers format, as a checkpoint for ComfyUI holds them."""
    made = {}
    for part in parts:
        weights = {
            name: tensor for path in (folder / part).glob("*.safetensors") for name, tensor in load_file(path).items()
        }
        convert = {"transformer": transformer_for_comfyui, "vae": vae_for_comfyui}.get(part, dict)
        made |= {PREFIXES[part] + name: tensor.contiguous() for name, tensor in convert(weights).items()}
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes a model in diffusers format as one file for ComfyUI.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    write_tensors(arguments.file, single_file(arguments.folder))
