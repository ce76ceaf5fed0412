"""Names of SD3's layers in LoRA files, and the layouts in which a LoRA for it is saved.

None of them loads everywhere. A file never has two, since UIs would add them up.
"""

from __future__ import annotations

from library.adapters.lora_names import Layout, LoraNames, add_names
from library.adapters.peft import folded_scale
from library.models.sd3.layouts.diffusers import to_diffusers
from library.models.sd3.layouts.kohya import fused_layer, in_checkpoint, to_kohya
from library.models.sd3.layouts.layer_names import is_known, named, spellings_of
from library.models.sd3.layouts.onetrainer import to_onetrainer
from library.models.sd3.layouts.text_encoders import TEXT_ENCODERS

LAYOUTS = {
    "kohya": Layout("", to_kohya),
    "diffusers": Layout("_diffusers", to_diffusers, folded_scale),
    "onetrainer": Layout("_onetrainer", to_onetrainer),
}
"""By their names in the setting `save_formats`."""
SD3_NAMES = LoraNames(
    model="SD3",
    layouts=LAYOUTS,
    block_lists=("transformer_blocks",),
    is_known=is_known,
    spellings_of=spellings_of,
    named=named,
    text_encoders=TEXT_ENCODERS,
    embeddings=frozenset({"clip_l", "clip_g", "t5xxl"}),
    fused=fused_layer,
    in_checkpoint=in_checkpoint,
)
add_names(SD3_NAMES)
