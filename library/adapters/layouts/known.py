"""The layouts that a LoRA is saved in. None loads everywhere, and never are two in one file: UIs would add them up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from library.adapters.layouts.diffusers import folded_scale, to_diffusers
from library.adapters.layouts.kohya import to_kohya
from library.adapters.layouts.onetrainer import to_onetrainer
from library.adapters.network import LayerWeights


@dataclass(frozen=True)
class Layout:
    """One way to name and shape the tensors of a LoRA.

    Args:
        ending: what the file's name has before ".safetensors".
        write: the tensors, float32.
        says: what the metadata has to say besides.
    """

    ending: str
    write: Callable[[Mapping[str, LayerWeights]], dict[str, Tensor]]
    says: Callable[[Mapping[str, LayerWeights]], dict[str, str]] = lambda weights: {}


LAYOUTS = {
    "kohya": Layout("", to_kohya),
    "diffusers": Layout("_diffusers", to_diffusers, folded_scale),
    "onetrainer": Layout("_onetrainer", to_onetrainer),
}
"""By the names that the setting `save_formats` has for them."""
