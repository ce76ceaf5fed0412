"""LoRA files as trainers write them: kohya, diffusers / PEFT, OneTrainer, SimpleTuner, LyCORIS, generic names.

A key is the name of a layer, in one of the spellings that its family knows, plus an ending that says which part of the
update it is. What no change of weights can express (DoRA, changed biases) is an error, never dropped silently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from library.adapters.changes import FileChange, MadeChange, Product, WholeChange, hadamard, kronecker
from library.adapters.lora_names import LoraNames, names_of
from library.adapters.network import LayerWeights
from library.adapters.peft import peft_scales, unfolded
from library.errors import ModelError

ENDINGS = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_A": "down",
    ".lora_B": "up",
    ".alpha": "alpha",
    ".diff": "diff",
    **{f".{part}": part for part in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")},
    **{f".{part}": part for part in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")},
}
"""Endings of keys and what they hold."""

KINDS = {"LoRA": ("down", "up"), "LoHa": ("hada",), "LoKr": ("lokr",), "full change": ("diff",)}
"""Kinds of updates, by the prefixes of their parts' names."""

DORA = ("is a DoRA", "its effect depends on the model's weights, so a LoRA can't represent it")
OTHER_KINDS = {
    ".dora_scale": DORA,
    ".lora_magnitude_vector": DORA,
    ".hada_t": ("is a LoHa of convolutions", "there are no such layers here"),
    ".lokr_t": ("is a LoKr of convolutions", "there are no such layers here"),
    ".lora_mid": ("is a LoCon", "there are no such layers here"),
    ".oft_": ("is an OFT", "it rotates weights, and a LoRA can only add to them"),
    ".diff_b": ("changes biases", "a LoRA can only change weights"),
    ".bias": ("changes biases", "a LoRA can only change weights"),
    ".w_norm": ("changes norms", "a LoRA can only change weights"),
    ".b_norm": ("changes norms", "a LoRA can only change weights"),
    ".set_weight": ("replaces weights", "a LoRA can only add to them"),
    ".reshape_weight": ("reshapes weights", "a LoRA can only add to them"),
}
"""Parts of keys that can't be read, what they mean, and why."""

LARGEST_LAYER = 1 << 26
"""Most numbers in a layer's weight; the largest in Stable Diffusion 3 and its encoders has two thirds of that."""

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
"""Parts of keys that identify another model."""

READABLE = "LoRAs, LoHas, LoKrs and full changes of weights can be read."
DAMAGED = "The file may be damaged; download it again."

NO_LORA = ("lora_concept.", "bundle_emb.")
"""Prefixes of keys for learned vectors, ours and OneTrainer's, which are not part of the LoRA."""


@dataclass(frozen=True)
class LoraFile:
    """A parsed LoRA file.

    Args:
        layers: by the layer's diffusers name; those of text encoders start with "text_encoder".
        spelling: the program whose names the file uses.
        left_out: keys that are not part of the LoRA.
        whole: changes that are not exactly a LoRA, by the same names.
        kinds: what the file holds, see `KINDS`.
        names: of the family of models it is for.
    """

    layers: dict[str, LayerWeights]
    spelling: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32
    whole: Mapping[str, WholeChange] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("LoRA",)
    names: LoraNames = field(kw_only=True)


def understood(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: str) -> LoraFile:
    """Parses the layers of a LoRA file from any program.

    Args:
        source: the file, for error messages.

    Raises:
        ModelError: it is not a LoRA for a known family, can't be read, is damaged, or mixes two layouts.
    """
    left_out = tuple(key for key in tensors if key.startswith(NO_LORA))
    bases, names = _by_layer({key: tensor for key, tensor in tensors.items() if key not in left_out}, source)
    spelling = _spelling_of(bases, names, source)
    layers: dict[str, LayerWeights] = {}
    whole: dict[str, WholeChange] = {}
    for base, parts in bases.items():
        for name, change in names.named(base, change_of(parts, base, source), source).items():
            if name in layers or name in whole:
                raise ModelError(f"{source} has two LoRAs for {name}.", "It mixes layouts, and UIs would apply both.")
            if isinstance(change, LayerWeights):
                layers[name] = change
            else:
                whole[name] = change
    if not any(key.endswith(".alpha") for key in tensors):
        scales = peft_scales(
            metadata, {name: layer.rank for name, layer in layers.items()}, source, names.text_encoders
        )
        layers = {
            name: LayerWeights(layer.down, layer.up, scales[name] * layer.alpha) for name, layer in layers.items()
        }
        layers = unfolded(layers, metadata)
    kinds = tuple(dict.fromkeys(_kind_of(parts) for parts in bases.values()))
    dtypes = {tensor.dtype for key, tensor in tensors.items() if key not in left_out and tensor.ndim > 1}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    return LoraFile(layers, spelling, metadata, left_out, dtype, whole, kinds, names=names)


def _by_layer(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, dict[str, Tensor]], LoraNames]:
    """Tensors by layer and by part ("down", "up", "alpha", "lokr_w1"), and the program whose names they have."""
    bases: dict[str, dict[str, Tensor]] = {}
    strange: list[str] = []
    for key, tensor in tensors.items():
        base, part = _parted(key)
        if part is None:
            strange.append(key)
            continue
        parts = bases.setdefault(base, {})
        if part in parts:
            raise ModelError(f"{source} has two LoRAs for {base[:120]!r}.")
        parts[part] = tensor
    for key in strange:
        other = next((said for mark, said in OTHER_KINDS.items() if mark in key), None)
        if other:
            what, why = other
            raise ModelError(f"{source} {what} (it has {key[:120]!r}): {why}.", READABLE)
    names = names_of(bases)
    unknown = [base for base in bases if not names.is_known(base)]
    if strange or unknown:
        raise _not_for_this(names, tensors, strange, unknown, source)
    if not bases:
        raise ModelError(f"{source} contains no LoRA.")
    return bases, names


def _parted(key: str) -> tuple[str, str | None]:
    """The name of the layer and the part; None for a key that no readable LoRA has."""
    for ending, part in ENDINGS.items():
        if key.endswith(ending):
            return key.removesuffix(ending), part
    begin, _, _ = key.removesuffix(".weight").rpartition(".")  # PEFT's name for the adapter, such as "default_0"
    for ending in (".lora_A", ".lora_B"):
        if key.endswith(".weight") and begin.endswith(ending):
            return begin.removesuffix(ending), ENDINGS[ending]
    return key, None


def _kind_of(parts: Mapping[str, Tensor]) -> str:
    return next((kind for kind, begins in KINDS.items() if any(part.startswith(begins) for part in parts)), "LoRA")


def _spelling_of(bases: Mapping[str, dict[str, Tensor]], names: LoraNames, source: str) -> str:
    found = names.spellings_of(bases)
    if len(found) > 1:
        raise ModelError(
            f"{source} mixes the layouts of {' and '.join(found)}.",
            "UIs would apply both: split it, or use another file.",
        )
    return next(iter(found), "text encoders only")


def change_of(parts: Mapping[str, Tensor], base: str, source: str) -> FileChange:
    """The update of one layer of a file, of any kind.

    Args:
        parts: by their role, see `ENDINGS`.
        base: the layer's name, for error messages.
        source: the file, for error messages.

    Raises:
        ModelError: a part is missing or of another kind, shapes don't match, or a number is NaN or infinite.
    """
    kind = _kind_of(parts)
    if kind == "LoRA" or not all(part == "alpha" or part.startswith(KINDS[kind]) for part in parts):
        return pair_of(parts, base, source)
    own = {part: _matrix(tensor, base, source) for part, tensor in parts.items() if part != "alpha"}
    alpha = _alpha_of(parts, base, source)
    try:
        return _built(kind, own, alpha)
    except KeyError as error:
        raise ModelError(f"{source}: the {kind} of {base[:120]!r} lacks {error}.", DAMAGED) from error
    except ArithmeticError as error:
        shapes = ", ".join(f"{part} {tuple(tensor.shape)}" for part, tensor in own.items())
        raise ModelError(f"{source}: the {kind} of {base[:120]!r} {error}: {shapes}.", DAMAGED) from error


def _built(kind: str, own: Mapping[str, Tensor], alpha: float | None) -> FileChange:
    """A LoHa, a LoKr or a full change, with the scale that ComfyUI gives it.

    Raises:
        KeyError: a part is missing.
        ArithmeticError: shapes don't fit, or are too large for any layer.
    """
    if kind == "full change":
        return MadeChange(_size_of(own["diff"]), lambda: own["diff"].float())
    own = {part: tensor.float() for part, tensor in own.items()}
    if kind == "LoHa":
        one, other = ((own[f"hada_w{number}_a"], own[f"hada_w{number}_b"]) for number in (1, 2))
        if _size_of(one) != _size_of(other):
            raise ArithmeticError("has products of two sizes")
        _check_size(*_size_of(one))
        return hadamard(one, other, 1.0 if alpha is None else alpha / len(one[1]))
    parts: list[Tensor | Product] = [
        own[name] if name in own else (own[f"{name}_a"], own[f"{name}_b"]) for name in ("lokr_w1", "lokr_w2")
    ]
    _check_size(*(side for part in parts for side in _size_of(part)))
    products = [part for part in parts if isinstance(part, tuple)]
    # With two whole matrices alpha means nothing; with two products, the second one's rank counts.
    first, second = parts
    return kronecker(first, second, alpha / len(products[-1][1]) if products and alpha is not None else 1.0)


def _check_size(*sides: int) -> None:
    """Checks that a change made of small parts would not be larger than any layer.

    Raises:
        ArithmeticError: it would.
    """
    if math.prod(sides) > LARGEST_LAYER:
        raise ArithmeticError("is larger than any layer")


def _size_of(part: Tensor | Product) -> tuple[int, int]:
    """Outputs and inputs of a matrix, or of a product.

    Raises:
        ArithmeticError: the two halves of the product don't fit.
    """
    if not isinstance(part, tuple):
        return len(part), part.shape[1]
    up, down = part
    if up.shape[1] != len(down):
        raise ArithmeticError("has halves of two ranks")
    return len(up), down.shape[1]


def _matrix(tensor: Tensor, base: str, source: str) -> Tensor:
    """A tensor of a file as a matrix; a convolution's inputs are flattened into one axis."""
    if not tensor.is_floating_point() or tensor.ndim not in (2, 4) or not tensor.numel():
        raise ModelError(f"{source}: the LoRA of {base[:120]!r} has the shape {tuple(tensor.shape)}.", DAMAGED)
    if not tensor.float().isfinite().all():
        raise _not_finite(base, source)
    return tensor.flatten(1)


def _alpha_of(parts: Mapping[str, Tensor], base: str, source: str) -> float | None:
    given = parts.get("alpha")
    if given is None:
        return None
    if given.numel() != 1:
        raise ModelError(f"{source}: the alpha of {base[:120]!r} is not a single number.", DAMAGED)
    if not math.isfinite(float(given)):
        raise _not_finite(base, source)
    return float(given)


def _not_finite(base: str, source: str) -> ModelError:
    return ModelError(
        f"{source}: the LoRA of {base[:120]!r} contains NaN or infinite values.",
        "Its training failed; use an earlier file of the run.",
    )


def pair_of(halves: Mapping[str, Tensor], base: str, source: str) -> LayerWeights:
    """The update of one layer of a plain LoRA.

    Args:
        halves: "down", "up" and, if there is one, "alpha".
        base: the layer's name, for error messages.
        source: the file, for error messages.

    Raises:
        ModelError: a half is missing, shapes don't match, or a number is NaN or infinite.
    """
    down, up = halves.get("down"), halves.get("up")
    if down is None or up is None or set(halves) - {"down", "up", "alpha"}:
        raise ModelError(f"{source}: the LoRA of {base[:120]!r} is incomplete.", DAMAGED)
    down, up = (_matrix(half, base, source).float() for half in (down, up))
    if up.shape[1] != len(down):
        shapes = f"{tuple(up.shape)} x {tuple(down.shape)}"
        raise ModelError(f"{source}: the LoRA of {base[:120]!r} is incomplete: {shapes}.", DAMAGED)
    alpha = _alpha_of(halves, base, source)
    return LayerWeights(down, up, float(len(down)) if alpha is None else alpha)


def _not_for_this(
    names: LoraNames, keys: Mapping[str, object], strange: list[str], unknown: list[str], source: str
) -> ModelError:
    """The error for a file with keys that can't be read.

    Args:
        strange: keys with unknown endings. unknown: layers in the other keys that the family lacks.
    """
    model = next((model for part, model in OTHER_MODELS.items() if any(part in key for key in keys)), None)
    if keys and set(keys) <= set(names.embeddings):
        return ModelError(
            f"{source} is an embedding, not a LoRA.",
            "Put it into ComfyUI's models/embeddings, and write embedding:NAME instead of the trigger.",
        )
    if unknown:
        found = f"It has {unknown[0][:120]!r}, which is not a layer of {names.model} or its text encoders."
    else:
        found = f"It has {strange[0][:120]!r}, which is not part of any known kind of LoRA."
    if model:
        return ModelError(f"{source} is not a LoRA for {names.model}: its layer names are from {model}.", found)
    return ModelError(f"{source} is not a LoRA for {names.model}, or its layout is unknown.", found)
