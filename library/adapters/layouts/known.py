"""The layouts that a LoRA for SD3 is saved in. None loads everywhere, and never are two in one file: UIs would add them
up."""

from __future__ import annotations

from library.adapters.layouts.diffusers import folded_scale, to_diffusers
from library.adapters.layouts.kohya import to_kohya
from library.adapters.layouts.layer_names import is_known, named, spellings_of
from library.adapters.layouts.onetrainer import to_onetrainer
from library.adapters.layouts.text_encoders import TEXT_ENCODERS
from library.adapters.lora_names import Layout, LoraNames, add_names

LAYOUTS = {
    "kohya": Layout("", to_kohya),
    "diffusers": Layout("_diffusers", to_diffusers, folded_scale),
    "onetrainer": Layout("_onetrainer", to_onetrainer),
}
"""By the names that the setting `save_formats` has for them."""
SD3_NAMES = LoraNames(
    model="SD3",
    layouts=LAYOUTS,
    block_lists=("transformer_blocks",),
    is_known=is_known,
    spellings_of=spellings_of,
    named=named,
    text_encoders=TEXT_ENCODERS,
    embeddings=frozenset({"clip_l", "clip_g", "t5xxl"}),
)
add_names(SD3_NAMES)
