"""What a model file is, by the names and shapes in its header: so that a wrong file is called by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from library.models.loading.tensor_file import Entry

Entries = Mapping[str, Entry]


def _any(entries: Entries, *parts: str) -> bool:
    return any(part in name for name in entries for part in parts)


def _begins(entries: Entries, *parts: str) -> bool:
    """Whether a name begins with one of these, with or without ComfyUI's prefix of the diffusion model."""
    return any(name.removeprefix("model.diffusion_model.").startswith(parts) for name in entries)


def _mmdit(entries: Entries) -> str:
    """Which of Stable Diffusion 3's transformers has these blocks."""
    blocks = {int(found[1]) for name in entries if (found := re.search(r"(?:joint|transformer)_blocks\.(\d+)\.", name))}
    dual = _any(entries, ".attn2.")
    known = {(38, False): "Stable Diffusion 3.5 Large", (24, False): "Stable Diffusion 3 Medium"}
    known[24, True] = "Stable Diffusion 3.5 Medium"
    extra = " and dual attention" if dual else ""
    return known.get(
        (len(blocks), dual), f"a transformer of Stable Diffusion 3's kind with {len(blocks)} blocks{extra}"
    )


def is_mmdit(entries: Entries) -> bool:
    """Whether it is a transformer of Stable Diffusion 3's kind, or a checkpoint with one."""
    return _begins(entries, "joint_blocks.") or _any(entries, "norm1_context.linear")


KINDS: list[tuple[str | Callable[[Entries], str], Callable[[Entries], bool]]] = [
    ("a LoRA", lambda e: _any(e, "lora_up.", "lora_down.", "lora_A.", "lora_B.", ".lora.up.", "hada_w1", "lokr_w")),
    ("a ControlNet", lambda e: _any(e, "control_model.", "controlnet_blocks.", "controlnet_cond_embedding")),
    ("FLUX", lambda e: _begins(e, "double_blocks.", "single_blocks.", "single_transformer_blocks.")),
    (_mmdit, is_mmdit),
    ("Stable Diffusion XL", lambda e: _any(e, "conditioner.embedders.", "add_embedding.linear_1")),
    ("Stable Diffusion XL", lambda e: _begins(e, "label_emb.") and _begins(e, "input_blocks.")),
    ("Stable Diffusion 2", lambda e: _any(e, "cond_stage_model.model.")),
    ("Stable Diffusion 1.5", lambda e: _any(e, "cond_stage_model.transformer.")),
    ("a U-Net of Stable Diffusion 1, 2 or XL", lambda e: _begins(e, "input_blocks.", "down_blocks.0.resnets")),
    ("a T5 text encoder", lambda e: _any(e, "SelfAttention.q.weight", "blk.0.attn_q")),
    ("CLIP-G", lambda e: _any(e, "text_model.encoder.layers.30.", "transformer.resblocks.30.")),
    ("CLIP-L", lambda e: _any(e, "text_model.encoder.layers.0.", "transformer.resblocks.0.")),
    ("a VAE", lambda e: _any(e, "encoder.down.0.block.0.", "encoder.down_blocks.0.", "first_stage_model.")),
    ("a textual inversion embedding", lambda e: _any(e, "emb_params", "string_to_param") or {"clip_l"} <= e.keys()),
]
"""Kinds of file, and how each is told; the first that fits is it."""


def what_is(entries: Entries) -> str:
    """A file's kind in words: "FLUX", "a LoRA" ..."""
    for name, fits in KINDS:
        if fits(entries):
            return name if isinstance(name, str) else name(entries)
    return f"nothing that this trainer knows (its first tensor is {min(entries)})"
