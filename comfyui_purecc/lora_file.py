"""Reads `NAME.safetensors`: a LoRA that fits badly or not at all is an error here; ComfyUI would only log it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .concept_file import check_file, shown

HALVES = ((".lora_up.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_A.weight"))
"""Ends of the names of the two matrices of a layer, in the layouts that the trainer writes; ComfyUI knows more."""


def read_lora(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file, copied, so that the file can be replaced meanwhile.

    Raises:
        ValueError: it is damaged, or not a complete LoRA.
    """
    path = Path(path)
    check_file(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} can't be read: {error}. It may be damaged; copy it again.") from error
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ValueError(f"{path.name}: {shown(key)} contains NaN or infinite values.")
    for up_end, down_end in HALVES:
        for end, other in ((up_end, down_end), (down_end, up_end)):
            for base in _bases(tensors, end):
                if base + other not in tensors:
                    raise ValueError(f"{path.name} is incomplete: {shown(base + end)} has no {other[1:]}.")
        for base in _bases(tensors, up_end):
            up, down = tensors[base + up_end], tensors[base + down_end]
            if up.ndim < 2 or down.ndim < 2 or up.shape[1] != down.shape[0]:
                raise ValueError(
                    f"{path.name}: the two matrices of {shown(base)} don't fit together: {tuple(up.shape)} and "
                    f"{tuple(down.shape)}."
                )
    return tensors


def check_fits(lora: Mapping[str, Tensor], places: Mapping[str, object], weights: Mapping[str, Tensor], source: str):
    """Checks that a LoRA is for this model.

    Args:
        places: ComfyUI's map from base names to a weight's name, or to that and a part of it.
        weights: of the model.

    Raises:
        ValueError: none of its layers is in the model, or they have other sizes there.
    """
    found = 0
    for up_end, down_end in HALVES:
        for base in _bases(lora, up_end):
            place = places.get(base)
            if place is None:
                continue
            found += 1
            name, part = (place, None) if isinstance(place, str) else place[:2]
            weight, up, down = weights.get(name), lora[base + up_end], lora[base + down_end]
            if weight is None or weight.ndim != 2 or not weight.is_floating_point():
                continue  # quantised weights have shapes of their own
            wanted = (part[2] if part else weight.shape[0], weight.shape[1])
            if (up.shape[0], down.shape[1]) != wanted:
                raise ValueError(
                    f"{source} is for another model: {shown(base)} needs a layer with {down.shape[1]} inputs and "
                    f"{up.shape[0]} outputs, but this model's has {wanted[1]} and {wanted[0]}."
                )
    if not found:
        first = next(iter(lora), "")
        raise ValueError(
            f"{source} is not a LoRA for this model: it has none of its layers, but others such as {shown(first)}."
        )


def _bases(tensors: Mapping[str, Tensor], end: str) -> list[str]:
    return [key.removesuffix(end) for key in tensors if key.endswith(end)]
