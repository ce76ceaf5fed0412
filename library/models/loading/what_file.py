"""Tells what a model file is, by the names in its header, so that messages can name a wrong file's kind."""

from __future__ import annotations

from collections.abc import Callable

from library.models.family import FAMILIES
from library.models.loading.tensor_file import Entries, begin_with, have

Kind = tuple[str, Callable[[Entries], bool]]
OF_NO_MODEL: list[Kind] = [
    ("a LoRA", lambda e: have(e, "lora_up.", "lora_down.", "lora_A.", "lora_B.", ".lora.up.", "hada_w1", "lokr_w")),
    ("a ControlNet", lambda e: have(e, "control_model.", "controlnet_blocks.", "controlnet_cond_embedding")),
]
"""Files that have a model's names but are something else."""
OTHER_MODELS: list[Kind] = [
    ("FLUX", lambda e: begin_with(e, "double_blocks.", "single_blocks.", "single_transformer_blocks.")),
    ("Stable Diffusion XL", lambda e: have(e, "conditioner.embedders.", "add_embedding.linear_1")),
    ("Stable Diffusion XL", lambda e: begin_with(e, "label_emb.") and begin_with(e, "input_blocks.")),
    ("Stable Diffusion 2", lambda e: have(e, "cond_stage_model.model.")),
    ("Stable Diffusion 1.5", lambda e: have(e, "cond_stage_model.transformer.")),
    ("a U-Net of Stable Diffusion 1, 2 or XL", lambda e: begin_with(e, "input_blocks.", "down_blocks.0.resnets")),
]
"""Models of other families; their checkpoints may hold the same encoders as ours."""
PARTS: list[Kind] = [
    ("a VAE", lambda e: have(e, "encoder.down.0.block.0.", "encoder.down_blocks.0.", "first_stage_model.")),
    ("a textual inversion embedding", lambda e: have(e, "emb_params", "string_to_param") or _is_embedding(e)),
]


def what_is(entries: Entries) -> str:
    """A file's kind as text, such as "FLUX" or "a LoRA", including the registered families."""
    families = list(FAMILIES.values())
    ours = (one.called(entries) for one in families if one.recognises(entries))
    encoders = (one.encoder_of(entries) for one in families)
    found = (
        _first(OF_NO_MODEL, entries)
        or next(ours, None)
        or _first(OTHER_MODELS, entries)
        or next(filter(None, encoders), None)
        or _first(PARTS, entries)
    )
    return found or f"an unknown kind of file (its first tensor is {min(entries)})"


def _first(kinds: list[Kind], entries: Entries) -> str | None:
    return next((name for name, fits in kinds if fits(entries)), None)


def _is_embedding(entries: Entries) -> bool:
    return any(not entries.keys().isdisjoint(one.lora_names.embeddings) for one in FAMILIES.values())
