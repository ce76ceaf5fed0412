"""Registers the family of Stable Diffusion 3 and 3.5."""

from __future__ import annotations

import torch

from library.config.family_settings import own_part
from library.config.model_settings import ModelSettings
from library.models.family import Family, FlowModel, ModelFiles, register
from library.models.memory.residence import Residence
from library.models.sd3 import single_file
from library.models.sd3.bundled_tokenizers import usual_counts
from library.models.sd3.checkpoint_layouts import PARTS, TOKENIZERS, slots_of
from library.models.sd3.file_kinds import encoder_of, is_mmdit, mmdit_of
from library.models.sd3.layouts.known import SD3_NAMES
from library.models.sd3.layouts.ui_rules import LOADERS
from library.models.sd3.model import SD3Model
from library.models.sd3.modules import blank
from library.models.sd3.settings import SD3ModelSettings


def opened(files: ModelFiles, settings: ModelSettings, device: torch.device, dtype: torch.dtype) -> FlowModel:
    """Opens a model of the family, without reading anything large."""
    own = own_part(settings, SD3ModelSettings)
    return SD3Model(
        files,
        device=device,
        dtype=dtype,
        t5_length=own.t5xxl_max_token_length,
        residence=Residence.of(settings),
        masked=(own.apply_lg_attn_mask, own.apply_lg_attn_mask, own.apply_t5_attn_mask),
    )


SD3 = register(
    Family(
        name="sd3",
        title="Stable Diffusion 3 and 3.5",
        pipeline="StableDiffusion3Pipeline",
        parts=PARTS,
        tokenizers=TOKENIZERS,
        blank=blank,
        slots_of=slots_of,
        model=opened,
        lora_names=SD3_NAMES,
        loaders=LOADERS,
        own_files=single_file.SETTINGS,
        recognises=is_mmdit,
        called=mmdit_of,
        encoder_of=encoder_of,
        single_file=lambda path, apart: single_file.SingleFile(path, apart, single_file.CONFIGURATIONS),
        with_own_files=single_file.PartsApart,
        token_counts=usual_counts,
        card_presets={24: ("sd35m", (6, 8, 12, 16, 24)), 38: ("sd35l", (16,))},
    )
)
