"""Recognises files of Stable Diffusion 3 and of its text encoders by the names in their headers."""

from __future__ import annotations

import re

from library.models.loading.tensor_file import Entries, begin_with, have

T5, CLIP_G, CLIP_L = "a T5 text encoder", "CLIP-G", "CLIP-L"


def is_mmdit(entries: Entries) -> bool:
    """Whether it is a Stable Diffusion 3 transformer, or a checkpoint with one."""
    of_diffusers = have(entries, "norm1_context.linear") and not begin_with(entries, "single_transformer_blocks.")
    return begin_with(entries, "joint_blocks.") or of_diffusers


def mmdit_of(entries: Entries) -> str:
    """Which of Stable Diffusion 3's transformers has these blocks."""
    blocks = {int(found[1]) for name in entries if (found := re.search(r"(?:joint|transformer)_blocks\.(\d+)\.", name))}
    dual = have(entries, ".attn2.")
    known = {
        (38, False): "Stable Diffusion 3.5 Large",
        (24, False): "Stable Diffusion 3 Medium",
        (24, True): "Stable Diffusion 3.5 Medium",
    }
    extra = " and dual attention" if dual else ""
    return known.get(
        (len(blocks), dual), f"a transformer of Stable Diffusion 3's kind with {len(blocks)} blocks{extra}"
    )


def encoder_of(entries: Entries) -> str | None:
    """Which of the text encoders it is; None if it isn't one."""
    if have(entries, "SelfAttention.q.weight", "blk.0.attn_q"):
        return T5
    if have(entries, "text_model.encoder.layers.30.", "transformer.resblocks.30."):
        return CLIP_G
    return CLIP_L if have(entries, "text_model.encoder.layers.0.", "transformer.resblocks.0.") else None
