"""diffusers' layout of an SD3 LoRA, with layers of both CLIPs, and the patch embedding as a convolution."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from library.adapters.network import LayerWeights
from library.adapters.peft import to_peft
from library.errors import ModelError
from library.models.sd3.layouts.kohya import as_convolution
from library.models.sd3.layouts.text_encoders import TEXT_ENCODERS


def to_diffusers(weights: Mapping[str, LayerWeights]) -> dict[str, Tensor]:
    """The tensors of a diffusers file, float32; up is already multiplied by alpha / rank.

    Raises:
        ModelError: diffusers can't load one of the layers from a file.
    """
    if any(name.startswith(TEXT_ENCODERS[2]) for name in weights):
        raise ModelError("The LoRA has layers of T5, which diffusers can't load.", "Save it in kohya's layout instead.")
    shaped = {
        name: LayerWeights(*as_convolution(layer), layer.alpha) if name == "pos_embed.proj" else layer
        for name, layer in weights.items()
    }
    return to_peft(shaped, TEXT_ENCODERS)
