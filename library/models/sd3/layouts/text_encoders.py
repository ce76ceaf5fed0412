"""Names of the text encoders' layers in LoRA files: kohya's and OneTrainer's with underscores, diffusers' with dots."""

from __future__ import annotations

import re

TEXT_ENCODERS = ("text_encoder.", "text_encoder_2.", "text_encoder_3.")
"""Prefixes of the layers of CLIP-L, CLIP-G and T5 in the diffusers pipeline."""

KOHYA = ("lora_te1_", "lora_te2_", "lora_te3_")
"""Kohya's and OneTrainer's prefixes instead."""

BEGINS = {
    **dict(zip(KOHYA, TEXT_ENCODERS, strict=True)),
    "text_encoders.clip_l.transformer.": TEXT_ENCODERS[0],
    "text_encoders.clip_g.transformer.": TEXT_ENCODERS[1],
    "text_encoders.t5xxl.transformer.": TEXT_ENCODERS[2],
    "clip_l.": TEXT_ENCODERS[0],
    "clip_g.": TEXT_ENCODERS[1],
    "t5.": TEXT_ENCODERS[2],
}
"""Other prefixes of the same layers: kohya's, ComfyUI's and those of OneTrainer's original names."""

CLIP = re.compile(r"text_model_encoder_layers_([0-9]+)_(?:(self_attn)_((?:q|k|v|out)_proj)|(mlp)_(fc[12]))")
T5 = re.compile(r"encoder_block_(\d+)_layer_(\d+)_(SelfAttention|DenseReluDense)_(q|k|v|o|wi_0|wi_1|wi|wo)")


def text_to_kohya(name: str) -> str:
    """ "text_encoder.text_model..." as "lora_te1_text_model_..."."""
    encoder = next(encoder for encoder in TEXT_ENCODERS if name.startswith(encoder))
    return KOHYA[TEXT_ENCODERS.index(encoder)] + name.removeprefix(encoder).replace(".", "_")


def text_layer(base: str) -> str | None:
    """A text encoder's layer in diffusers' names, such as "text_encoder.text_model..." for "lora_te1_text_model_...";
    None for any other name."""
    if base.startswith(TEXT_ENCODERS):
        return base
    begin = next((begin for begin in BEGINS if base.startswith(begin)), None)
    if begin is None:
        return None
    encoder, rest = BEGINS[begin], base.removeprefix(begin).replace(".", "_")
    clip, t5 = CLIP.fullmatch(rest), T5.fullmatch(rest)
    if clip:
        return f"{encoder}text_model.encoder.layers.{clip[1]}.{clip[2] or clip[4]}.{clip[3] or clip[5]}"
    if t5:
        return f"{encoder}encoder.block.{t5[1]}.layer.{t5[2]}.{t5[3]}.{t5[4]}"
    if rest == "text_projection":
        return f"{encoder}text_projection"
    return None
