"""Starts training from the weights of a published model, possibly of another size."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from tools.pocket.scorer import Scorer


def published_parts(folder: Path) -> dict[str, nn.Module]:
    """Transformer and text encoders of a diffusers folder, by the names of `TextToFlow`'s parts, in float32."""
    kinds = {
        "transformer": SD3Transformer2DModel,
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
    }
    return {name: kind.from_pretrained(folder / name, torch_dtype=torch.float32) for name, kind in kinds.items()}


@torch.no_grad()
def begin_with(module: nn.Module, trained: nn.Module) -> None:
    """Copies the weights that both have in the same shape, and position tables of any shape."""
    own = module.state_dict()
    for name, values in trained.state_dict().items():
        if name.endswith("pos_embed.pos_embed"):
            values = resized_table(values, own[name].shape[1])
        if name in own and own[name].shape == values.shape:
            own[name].copy_(values)


@torch.no_grad()
def begin_with_judge(scorer: Scorer, trained: Scorer) -> None:
    """Starts a judge of larger pictures as one that reads them shrunk by averaging neighbouring pixels."""
    pixels = (scorer.side // trained.side) ** 2
    weights = dict(trained.state_dict())
    for name, before in (("at_32.0.weight", 0), ("up_64.weight", trained.up_32.out_channels)):
        features, colours = weights[name].split([before, weights[name].shape[1] - before], dim=1)
        weights[name] = torch.cat([features, colours.repeat_interleave(pixels, dim=1) / pixels], dim=1)
    for name in ("regions.weight", "regions.bias"):
        weights[name] = weights[name].repeat_interleave(pixels, dim=0)
    scorer.load_state_dict(weights)


def resized_table(table: Tensor, places: int) -> Tensor:
    """A square position table (1, places, width), resized to N places: each takes the value at its position."""
    side, wanted = math.isqrt(table.shape[1]), math.isqrt(places)
    grid = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid.float(), size=(wanted, wanted), mode="bilinear")
    return grid.permute(0, 2, 3, 1).reshape(1, places, -1).to(table.dtype)
