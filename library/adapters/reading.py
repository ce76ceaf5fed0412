"""LoRA files for SD3 as any trainer writes them: kohya, diffusers / PEFT, OneTrainer, SimpleTuner, generic names.

A key is the name of a layer, in one of six spellings, and an ending that says which half of the update it is, in one of
seven. What a plain LoRA can't express (DoRA, LoHa, LoKr, changed biases) is refused, never dropped in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from library.adapters.diffusers_layout import peft_scales, unfolded
from library.adapters.kohya import layers_of_original
from library.adapters.network import LayerWeights
from library.adapters.onetrainer import with_dots
from library.adapters.text_names import KOHYA as KOHYA_TEXT
from library.adapters.text_names import TEXT_ENCODERS, text_from_kohya
from library.errors import ModelError

ENDINGS = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_A": "down",
    ".lora_B": "up",
    ".alpha": "alpha",
}
"""Ends of keys and what they hold."""

SPELLINGS = {
    "lora_unet_": "kohya",
    "diffusion_model.": "generic",
    "lora_transformer_": "OneTrainer",
    "lycoris_": "SimpleTuner",
    "transformer.": "diffusers",
    "base_model.model.": "PEFT",
    "transformer_blocks.": "bare diffusers",
}
"""Begins of the names of the transformer's layers, and whose they are."""

OTHER_KINDS = {
    ".dora_scale": "DoRA",
    ".lora_magnitude_vector": "DoRA",
    ".hada_w": "LoHa",
    ".lokr_w": "LoKr",
    ".oft_": "OFT",
    ".oft_R": "OFT",
    ".lora_mid": "LoCon",
    ".diff": "full-weight update",
    ".bias": "LoRA with biases",
    ".reshape_weight": "LoRA that reshapes weights",
}
"""Parts of keys that no plain LoRA has, and what has them."""

EMBEDDINGS = {"clip_l", "clip_g", "t5xxl"}
"""The keys of a textual inversion for SD3."""
OTHER_MODELS = {
    "double_blocks": "Flux",
    "single_transformer_blocks": "Flux",
    "single_blocks": "Flux",
    "input_blocks": "Stable Diffusion 1, 2 or XL",
    "down_blocks": "Stable Diffusion 1, 2 or XL",
    "output_blocks": "Stable Diffusion 1, 2 or XL",
    "up_blocks": "Stable Diffusion 1, 2 or XL",
    "mid_block": "Stable Diffusion 1, 2 or XL",
}
"""Parts of keys that tell another model."""

NO_LORA = ("lora_concept.", "bundle_emb.")
"""Begins of keys that are learned vectors, ours and OneTrainer's, and no part of the LoRA."""


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file, understood.

    Args:
        layers: by the layer's diffusers name; those of text encoders begin with "text_encoder".
        spelling: whose names the file has.
        left_out: keys that are no part of the LoRA.
    """

    layers: dict[str, LayerWeights]
    spelling: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32


def understood(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: str) -> LoraFile:
    """The layers of a LoRA file, whoever wrote it.

    Args:
        source: the file, for error messages.

    Raises:
        ModelError: not a LoRA for SD3, not a plain one, damaged, or two layouts in one file.
    """
    left_out = tuple(key for key in tensors if key.startswith(NO_LORA))
    bases = _by_layer({key: tensor for key, tensor in tensors.items() if key not in left_out}, source)
    spelling = _spelling_of(bases, source)
    pairs = {base: pair_of(halves, base, source) for base, halves in bases.items()}
    layers: dict[str, LayerWeights] = {}
    for base, pair in pairs.items():
        for name, layer in _named(base, pair, source).items():
            if name in layers:
                raise ModelError(f"{source} has two LoRAs for {name}.", "It mixes layouts, which UIs add up.")
            layers[name] = layer
    if not any(key.endswith(".alpha") for key in tensors):
        scales = peft_scales(metadata, {name: layer.rank for name, layer in layers.items()}, source)
        layers = {name: LayerWeights(layer.down, layer.up, scales[name] * layer.rank) for name, layer in layers.items()}
        layers = unfolded(layers, metadata)
    dtypes = {tensor.dtype for key, tensor in tensors.items() if key not in left_out and tensor.ndim > 1}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    return LoraFile(layers, spelling, metadata, left_out, dtype)


def _by_layer(tensors: Mapping[str, Tensor], source: str) -> dict[str, dict[str, Tensor]]:
    """Tensors by the name of their layer and by what they are: "down", "up", "alpha"."""
    bases: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        ending = next((ending for ending in ENDINGS if key.endswith(ending)), None)
        other = next((kind for part, kind in OTHER_KINDS.items() if part in key), None)
        if ending is None and other:
            raise ModelError(
                f"{source} is a {other} (it has {key[:120]!r}); no plain LoRA has the same effect.",
                "Only plain LoRAs can be read.",
            )
        if ending is None:
            raise _not_for_sd3(tensors, source)
        halves = bases.setdefault(key.removesuffix(ending), {})
        if ENDINGS[ending] in halves:
            raise ModelError(f"{source} has two LoRAs for {key.removesuffix(ending)[:120]!r}.")
        halves[ENDINGS[ending]] = tensor
    if not bases:
        raise ModelError(f"{source} holds no LoRA.")
    return bases


def _spelling_of(bases: Mapping[str, dict[str, Tensor]], source: str) -> str:
    found: dict[str, None] = {}
    if any(part in base for base in bases for part in OTHER_MODELS):
        raise _not_for_sd3(bases, source)
    for base in bases:
        begin = next((begin for begin in SPELLINGS if base.startswith(begin)), None)
        if begin:
            found[SPELLINGS[begin]] = None
        elif not base.startswith((*KOHYA_TEXT, *TEXT_ENCODERS)):
            raise _not_for_sd3(bases, source)
    if len(found) > 1:
        raise ModelError(
            f"{source} mixes the layouts of {' and '.join(found)}.", "UIs would apply both: split it, or get another."
        )
    return next(iter(found), "text encoders only")


def pair_of(halves: Mapping[str, Tensor], base: str, source: str) -> LayerWeights:
    """The update of one layer.

    Args:
        halves: "down", "up" and, if there is one, "alpha".
        base: the layer's name, for error messages.
        source: the file, for error messages.

    Raises:
        ModelError: a half is missing, shapes don't fit, or a number is none.
    """
    down, up = halves.get("down"), halves.get("up")
    damaged = "The file may be damaged; fetch it again."
    if down is None or up is None:
        raise ModelError(f"{source}: the LoRA of {base[:120]!r} is incomplete.", damaged)
    shapes = f"{tuple(up.shape)} x {tuple(down.shape)}"
    if not down.is_floating_point() or not up.is_floating_point() or down.ndim not in (2, 4) or up.ndim not in (2, 4):
        raise ModelError(f"{source}: the LoRA of {base[:120]!r} has the shape {shapes}.", damaged)
    down, up = down.flatten(1).float(), up.flatten(1).float()
    if up.shape[1] != len(down) or not len(down) or not down.shape[1] or not len(up):
        raise ModelError(f"{source}: the LoRA of {base[:120]!r} is incomplete: {shapes}.", damaged)
    given = halves.get("alpha")
    if given is not None and given.numel() != 1:
        raise ModelError(f"{source}: the alpha of {base[:120]!r} is no single number.", damaged)
    alpha = float(len(down)) if given is None else float(given)
    if not (math.isfinite(alpha) and down.isfinite().all() and up.isfinite().all()):
        raise ModelError(
            f"{source}: the LoRA of {base[:120]!r} holds numbers that are none (NaN or infinite).",
            "Its training went wrong; take an earlier file of the run.",
        )
    return LayerWeights(down, up, alpha)


def _named(base: str, pair: LayerWeights, source: str) -> dict[str, LayerWeights]:
    """The diffusers layers that a layer of the file is."""
    if base.startswith(KOHYA_TEXT):
        return {text_from_kohya(base, source): pair}
    if base.startswith(TEXT_ENCODERS):
        return {base: pair}
    for prefix in ("lora_unet_", "diffusion_model."):
        if base.startswith(prefix):
            return layers_of_original(base.removeprefix(prefix).replace(".", "_"), pair, source)
    name = base
    for prefix in ("lora_transformer_", "lycoris_", "transformer.", "base_model.model."):
        name = name.removeprefix(prefix) if name == base else name
    dotted = with_dots(name.replace(".", "_"))
    if dotted is None:
        raise ModelError(f"{source} has a LoRA for {base[:120]!r}, which is no layer of SD3.", "Is it for SD3?")
    return {dotted: pair}


def _not_for_sd3(keys: Mapping[str, object], source: str) -> ModelError:
    model = next((model for part, model in OTHER_MODELS.items() if any(part in key for key in keys)), None)
    if set(keys) <= EMBEDDINGS:
        return ModelError(
            f"{source} is an embedding, no LoRA.",
            "It goes into ComfyUI's models/embeddings: write embedding: and its name for the trigger.",
        )
    begins = f"It begins with {next(iter(keys), 'nothing')[:120]!r}."
    if model:
        return ModelError(f"{source} is not a LoRA for SD3: its names are those of {model}.", begins)
    return ModelError(f"{source} is not a LoRA for SD3, or in no layout that is known here.", begins)
