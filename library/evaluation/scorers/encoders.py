"""Image encoders: DINO, CSD, EfficientNet-Lite0, and any in ONNX's place has its own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from library.evaluation.scorers.clip import vision_from_openai
from library.evaluation.scorers.efficientnet_lite import EfficientNetLite0
from library.evaluation.scorers.inception import FidInception, fid_input
from library.evaluation.scorers.interface import Identity
from library.evaluation.scorers.pixels import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocess, in_batches
from library.evaluation.scorers.scorer_files import WEIGHTS, Model, load_into, read_weights
from library.models.loading.pretrained import load_pretrained
from library.transfer import moved

AT_ONCE = 16
DINO_INPUT = Preprocess(256, 224, IMAGENET_MEAN, IMAGENET_STD)
"""As the DreamBooth paper's authors' successors do it with torchvision; the hub's processor squashes instead."""
LITE_INPUT = Preprocess(224, 224, (127 / 255,) * 3, (128 / 255,) * 3)
CSD_INPUT = Preprocess(224, 224, CLIP_MEAN, CLIP_STD)
VIT_L_14: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
"""The shape of the image half of CLIP ViT-L/14."""


class Encoder:
    """Pictures through a network, some at a time.

    Args:
        prepare: pictures to the network's input.
        forward: that input to features, (B, D).
    """

    def __init__(
        self,
        identity: Identity,
        prepare: Callable[[Sequence[Image]], Tensor],
        forward: Callable[[Tensor], Tensor],
        device: torch.device,
    ) -> None:
        self.identity = identity
        self._prepare = prepare
        self._forward = forward
        self._device = device

    @torch.no_grad()
    def embed(self, images: Sequence[Image]) -> Tensor:
        """Features, (N, D) float32."""
        parts = [
            self._forward(self._prepare(some).to(self._device)).float().cpu() for some in in_batches(images, AT_ONCE)
        ]
        return torch.cat(parts)


def load_dino(identity: Identity, folder: Path, device: torch.device) -> Encoder:
    """DINO ViT: the class token behind the last norm. The pooler is not DINO's and is left out."""
    from transformers import ViTModel

    model = moved(load_pretrained(ViTModel, folder, add_pooling_layer=False), device)
    return Encoder(identity, DINO_INPUT.batch, lambda x: model(pixel_values=x).last_hidden_state[:, 0], device)


def load_csd(identity: Identity, folder: Path, device: torch.device) -> Encoder:
    """CSD (Somepalli et al., 2024): CLIP ViT-L/14's image half, then the style head."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    file = folder / WEIGHTS
    tensors = read_weights(file)
    empty = CLIPVisionModel(CLIPVisionConfig(**VIT_L_14))
    model = moved(load_into(empty, vision_from_openai(tensors, "backbone."), file), device)
    style = tensors["last_layer_style"].float().to(device)
    return Encoder(identity, CSD_INPUT.batch, lambda x: model(pixel_values=x).pooler_output @ style, device)


def load_efficientnet_lite(identity: Identity, folder: Path, device: torch.device) -> Encoder:
    """EfficientNet-Lite0, taught ImageNet's classes: mean-pooled features, (N, 1280)."""
    model = _ours(EfficientNetLite0(), folder, device)
    return Encoder(identity, LITE_INPUT.batch, model, device)


def load_inception(identity: Identity, folder: Path, device: torch.device) -> Encoder:
    """FID's Inception of 2015-12-05: pooled features, (N, 2048)."""
    model = _ours(FidInception(), folder, device)
    return Encoder(identity, fid_input, model, device)


def _ours(model: Model, folder: Path, device: torch.device) -> Model:
    return moved(load_into(model, read_weights(folder / WEIGHTS), folder / WEIGHTS), device)
