"""Names of the text encoders' layers in LoRA files: kohya's and OneTrainer's with underscores, diffusers' with dots."""

from __future__ import annotations

import re

from library.errors import ModelError

TEXT_ENCODERS = ("text_encoder.", "text_encoder_2.", "text_encoder_3.")
"""Begins of the names of layers of CLIP-L, CLIP-G and T5, as the diffusers pipeline calls them."""

KOHYA = ("lora_te1_", "lora_te2_", "lora_te3_")
"""What kohya and OneTrainer put in their place."""

CLIP = re.compile(r"text_model_encoder_layers_(\d+)_(?:(self_attn)_((?:q|k|v|out)_proj)|(mlp)_(fc[12]))")
T5 = re.compile(r"encoder_block_(\d+)_layer_(\d+)_(SelfAttention|DenseReluDense)_(q|k|v|o|wi_0|wi_1|wi|wo)")


def text_to_kohya(name: str) -> str:
    """ "text_encoder.text_model..." as "lora_te1_text_model_..."."""
    encoder = next(encoder for encoder in TEXT_ENCODERS if name.startswith(encoder))
    return KOHYA[TEXT_ENCODERS.index(encoder)] + name.removeprefix(encoder).replace(".", "_")


def text_from_kohya(base: str, source: str) -> str:
    """ "lora_te1_text_model_..." as "text_encoder.text_model...".

    Raises:
        ModelError: no layer of CLIP or T5.
    """
    prefix = next(prefix for prefix in KOHYA if base.startswith(prefix))
    encoder, rest = TEXT_ENCODERS[KOHYA.index(prefix)], base.removeprefix(prefix)
    clip, t5 = CLIP.fullmatch(rest), T5.fullmatch(rest)
    if clip:
        return f"{encoder}text_model.encoder.layers.{clip[1]}.{clip[2] or clip[4]}.{clip[3] or clip[5]}"
    if t5:
        return f"{encoder}encoder.block.{t5[1]}.layer.{t5[2]}.{t5[3]}.{t5[4]}"
    if rest == "text_projection":
        return f"{encoder}text_projection"
    raise ModelError(f"{source} has a LoRA for {base[:120]!r}, which is no layer of CLIP or T5.", "Is it for SD3?")
