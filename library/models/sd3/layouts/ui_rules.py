"""How each UI reads the keys of a LoRA file: which layers it changes, by what, and which keys it ignores.

Rules of ComfyUI 0.3.64, Forge dfdcbab, SD.Next 058a7f0, A1111 1.10 and diffusers 0.42.1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from library.adapters.uis.loaders import File, Loaders, Patch, UiReading
from library.models.sd3.layouts.shape import ModelShape, shape_of

FORGE_FORGIVES = 12
"""Most unknown keys with which Forge still loads a file; with one more it loads nothing."""

PAIRS = [
    (".lora_up.weight", ".lora_down.weight"),
    ("_lora.up.weight", "_lora.down.weight"),
    (".lora_B.weight", ".lora_A.weight"),
    (".lora.up.weight", ".lora.down.weight"),
    (".lora_B", ".lora_A"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    (".lora_B.default.weight", ".lora_A.default.weight"),
]
"""Endings of a pair of keys, in the order in which ComfyUI looks for them under each layer's name."""
PAIRS_OF_FORGE = [pair for pair in PAIRS if pair[0] not in (".lora_B", ".lora_B.default.weight")]

Rule = Callable[[File, Mapping[str, str], ModelShape], UiReading]

TEXT = ("lora_te1_", "lora_te2_", "lora_te3_")


def comfyui(file: File, metadata: Mapping[str, str], shape: ModelShape) -> UiReading:
    """ComfyUI, and reForge after it: the original's and diffusers' names in six spellings; ignores metadata."""
    reading = UiReading()
    for original in shape.originals:
        for base in (f"lora_unet_{original.replace('.', '_')}", f"diffusion_model.{original}"):
            _take_original(reading, file, base, original, shape, PAIRS)
    for layer in shape.places:
        underscored = layer.replace(".", "_")
        begins = [f"transformer.{layer}", f"base_model.model.{layer}"]
        begins += [f"lora_transformer_{underscored}", f"lycoris_{underscored}"]
        for base in begins:
            for up, down, scale in _pairs(reading, file, base, PAIRS):
                # Where the original has swapped halves, it swaps them, which is the order of diffusers' layer again.
                reading.add(layer, Patch(up, down, scale))
    return _ended(reading, file, TEXT)


def forge(file: File, metadata: Mapping[str, str], shape: ModelShape) -> UiReading:
    """Forge: only names of the original."""
    reading = UiReading()
    for original in shape.originals:
        for base in (f"lora_unet_{original.replace('.', '_')}", f"diffusion_model.{original}"):
            _take_original(reading, file, base, original, shape, PAIRS_OF_FORGE)
    reading = _ended(reading, file, TEXT)
    if len(reading.unmatched) > FORGE_FORGIVES:
        return reading.refuse(f"{len(reading.unmatched)} unknown keys, more than {FORGE_FORGIVES}")
    return reading


def a1111(file: File, metadata: Mapping[str, str], shape: ModelShape) -> UiReading:
    """A1111: kohya's names, but no SD 3.5 model: its own transformer has neither dual attention nor norms of queries
    and keys."""
    reading = UiReading()
    if shape.dual_attention or shape.normed:
        what = "dual attention" if shape.dual_attention else "norms of queries and keys"
        return reading.refuse(f"it can't run a model with {what}")
    for original in shape.originals:
        base = f"lora_unet_{original.replace('.', '_')}"
        _take_original(reading, file, base, original, shape, PAIRS[:1])
    return _ended(reading, file, TEXT[:2])


def sdnext(file: File, metadata: Mapping[str, str], shape: ModelShape) -> UiReading:
    """SD.Next's own loader: diffusers' names with lora_down, lora_up; it swaps the streams of kohya's files."""
    reading = UiReading()
    if any(key.startswith("lora_unet_") for key in file):
        return reading.refuse("it swaps the image and text layers of kohya's layout")
    for layer in shape.places:
        for base in (f"lora_transformer_{layer.replace('.', '_')}", f"transformer.{layer}"):
            for up, down, scale in _pairs(reading, file, base, PAIRS[:1]):
                reading.add(layer, Patch(up, down, scale))
    return _ended(reading, file, TEXT[:2])


def diffusers(file: File, metadata: Mapping[str, str], shape: ModelShape) -> UiReading:
    """diffusers' load_lora_weights, and SD.Next with its option to load LoRAs through diffusers."""
    reading = UiReading()
    if not all("lora" in key for key in file):
        return reading.refuse("a key without the word lora")
    own = [key for key in file if key.startswith("transformer.")]
    if not own:
        return reading.refuse("no key starts with transformer.")
    for key in own:
        if not key.endswith((".lora_A.weight", ".lora_B.weight")):
            return reading.refuse(f"the key {key}")
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        alpha, rank = config.get("transformer.lora_alpha"), config.get("transformer.r")
        factor = 1.0 if alpha is None or not rank else float(alpha) / float(rank)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return reading.refuse("lora_adapter_metadata that can't be read")
    for layer in shape.places:
        up, down = f"transformer.{layer}.lora_B.weight", f"transformer.{layer}.lora_A.weight"
        if up in file and down in file:
            reading.matched |= {up, down}
            reading.add(layer, Patch(up, down, factor))
    return _ended(reading, file, ("text_encoder.", "text_encoder_2."))


RULES: dict[str, Rule] = {
    "ComfyUI": comfyui,
    "reForge": comfyui,
    "Forge": forge,
    "A1111": a1111,
    "SD.Next": sdnext,
    "diffusers": diffusers,
}
"""By the UI's name."""


def _pairs(reading: UiReading, file: File, base: str, pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str, float]]:
    """The first pair of keys under a base name, and its scale; marks them as matched."""
    for up_end, down_end in pairs:
        up, down, alpha = base + up_end, base + down_end, f"{base}.alpha"
        if up in file and down in file:
            reading.matched |= {up, down}
            scale = 1.0
            if alpha in file:
                reading.matched.add(alpha)
                scale = float(file[alpha]) / file[down].shape[0]
            yield up, down, scale
            return


def _take_original(
    reading: UiReading, file: File, base: str, original: str, shape: ModelShape, pairs: list[tuple[str, str]]
) -> None:
    """Applies a change of a whole layer of the original, which is up to three layers of diffusers."""
    for up, down, scale in _pairs(reading, file, base, pairs):
        for layer in shape.originals[original]:
            place = shape.places[layer]
            reading.add(layer, Patch(up, down, scale, place.rows, place.turned))


def _ended(reading: UiReading, file: File, text: tuple[str, ...]) -> UiReading:
    reading.matched |= {key for key in file if key.startswith(text)}
    reading.unmatched = tuple(key for key in file if key not in reading.matched)
    return reading


PROMISED = {
    "kohya": ("ComfyUI", "reForge", "Forge"),
    "diffusers": ("ComfyUI", "reForge", "diffusers"),
    "onetrainer": ("ComfyUI", "reForge", "SD.Next"),
}
"""The UIs that each layout is for."""


WHERE = {
    "ComfyUI": "models/loras",
    "Forge": "models/Lora",
    "reForge": "models/Lora",
    "SD.Next": "models/Lora",
    "diffusers": "pipeline.load_lora_weights(folder, weight_name=file)",
}
"""Where each UI looks for a LoRA."""


def also_promised(layout: str, shape: ModelShape) -> tuple[str, ...]:
    """Further UIs that load a file in this layout for a model of this shape."""
    return ("A1111",) if layout == "kohya" and not (shape.dual_attention or shape.normed) else ()


LOADERS = Loaders(RULES, shape_of, PROMISED, WHERE, also_promised)
