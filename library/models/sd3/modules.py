"""Modules of the parts of Stable Diffusion 3, without weights: on the meta device, where they take no memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def _of_diffusers(part: str) -> Any:
    """The class of the transformer or the VAE. Each is imported alone, since the other's package takes long."""
    if part == "vae":
        from diffusers import AutoencoderKL

        return AutoencoderKL
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel


def blank(part: str, config: Mapping[str, Any]) -> nn.Module:
    """The module of a part. Its parameters, and the buffers that files hold, are on the meta device."""
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights  # it takes most of the time, and the values are not needed

    if part in ("transformer", "vae"):
        kind = _of_diffusers(part)
        with torch.device("meta"), no_init_weights():
            return kind.from_config(dict(config))
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    # Only parameters: CLIP counts its positions in a buffer that files don't hold.
    with init_empty_weights(include_buffers=False), no_init_weights():
        if part == "text_encoder_3":
            return T5EncoderModel(T5Config.from_dict(dict(config)))
        return CLIPTextModelWithProjection(CLIPTextConfig.from_dict(dict(config)))
