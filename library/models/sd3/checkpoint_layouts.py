"""Where each weight of a model is in a checkpoint of another layout.

diffusers can convert the layouts of Stability's files, but needs all tensors in memory. Here its converters get row
numbers instead of weights. Their output says which rows of which tensor make up each weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from library.models.loading.tensor_file import Entry, TensorFile
from library.models.loading.weights import Slot

QUANTISATION_MARKS = ("scaled_fp8", ".scale_weight", ".scale_input", ".weight_scale", ".input_scale", ".comfy_quant")
"""Endings of names that say how other tensors are quantised."""
SCALES = (".scale_weight", ".weight_scale")
"""Endings in place of ".weight" for the scale of an 8-bit weight."""
LEFT_OUT = ("position_ids", "logit_scale")
"""Endings of names that text encoders have in files, but the model does not use."""
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
"""CLIP-L, CLIP-G, T5."""
PARTS = ("transformer", "vae", *TEXT_ENCODERS)
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
SINGLE_FILE_PREFIXES = {
    "transformer": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder_2": "text_encoders.clip_g.transformer.",
    "text_encoder_3": "text_encoders.t5xxl.transformer.",
}
"""Start of the names of each part in a checkpoint that holds several."""


def slots_of(part: str, file: TensorFile, config: Mapping[str, Any]) -> tuple[dict[str, Slot], list[str]]:
    """The weights of a part that a file holds, by their names in the model, and those that the part does not use.

    Args:
        config: the VAE's must have the number of its blocks.

    Raises:
        KeyError: names a tensor that the layout needs but is missing from the file.
    """
    names = _names_of(part, file.entries)
    weights = {name: key for name, key in names.items() if not name.endswith(QUANTISATION_MARKS + LEFT_OUT)}
    slots = {name: Slot(key) for name, key in weights.items()}
    if part == "text_encoder_3" and "encoder.embed_tokens.weight" in weights:
        embeddings = weights.pop("encoder.embed_tokens.weight")
        weights.setdefault("shared.weight", embeddings)
    convert = _converter(part, weights, config)
    if convert:
        slots = _converted(weights, file.entries, convert)
    scaled = {name: Slot(slot.key, slot.rows, _scale_of(slot.key, file.entries)) for name, slot in slots.items()}
    return scaled, sorted(set(weights.values()) - {slot.key for slot in slots.values()})


def _names_of(part: str, entries: Mapping[str, Entry]) -> dict[str, str]:
    """The tensors of a part by their names without prefix, whether or not the file holds other parts."""
    prefix = SINGLE_FILE_PREFIXES[part]
    found = {key.removeprefix(prefix): key for key in entries if key.startswith(prefix)}
    if found:
        return found
    if any(key.startswith(tuple(SINGLE_FILE_PREFIXES.values())) for key in entries):
        return {}
    return {key: key for key in entries}


Converter = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def _converter(part: str, names: Mapping[str, str], config: Mapping[str, Any]) -> Converter | None:
    """The function that gives a part diffusers' names; None if it has them already."""
    if part == "transformer" and any(name.startswith("joint_blocks.") for name in names):
        from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

        return convert_sd3_transformer_checkpoint_to_diffusers
    if part == "vae" and any(name.startswith("encoder.down.") for name in names):
        from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

        return lambda tensors: convert_ldm_vae_checkpoint(tensors, config)
    return None


def _converted(names: Mapping[str, str], entries: Mapping[str, Entry], convert: Converter) -> dict[str, Slot]:
    """A converter's effect as slots, found by running it on row numbers."""
    keys = sorted(names.values())
    lengths = torch.tensor([(entries[key].shape or (1,))[0] for key in keys])
    ends = lengths.cumsum(0)
    begins = dict(zip(keys, (ends - lengths).tolist(), strict=True))
    numbers = {
        name: torch.arange(begins[key], begins[key] + (entries[key].shape or (1,))[0]) for name, key in names.items()
    }
    slots = {}
    for name, rows in convert(numbers).items():
        key = keys[int(torch.searchsorted(ends, rows[0], right=True))]
        slots[name] = Slot(key, _runs(rows - begins[key], (entries[key].shape or (1,))[0]))
    return slots


def _runs(rows: Tensor, length: int) -> tuple[tuple[int, int], ...] | None:
    """Row numbers as ranges with start and end; None for all of them in order."""
    breaks = (rows.diff() != 1).nonzero().flatten() + 1
    runs = tuple((int(run[0]), int(run[-1]) + 1) for run in rows.tensor_split(breaks))
    return None if runs == ((0, length),) else runs


def _scale_of(key: str, entries: Mapping[str, Entry]) -> str | None:
    stem = key.removesuffix(".weight")
    return next((stem + scale for scale in SCALES if stem != key and stem + scale in entries), None)
