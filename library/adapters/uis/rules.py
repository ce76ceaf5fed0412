"""What each UI makes of the keys of a LoRA file: which layers it changes, by what, and what it leaves.

Rules of ComfyUI 0.3.64, Forge dfdcbab, SD.Next 058a7f0, A1111 1.10 and diffusers 0.42.1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from library.adapters.uis.shape import ModelShape

FORGE_FORGIVES = 12
"""Unknown keys with which Forge still loads a file; with one more it loads nothing of it."""

PAIRS = [
    (".lora_up.weight", ".lora_down.weight"),
    ("_lora.up.weight", "_lora.down.weight"),
    (".lora_B.weight", ".lora_A.weight"),
    (".lora.up.weight", ".lora.down.weight"),
    (".lora_B", ".lora_A"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    (".lora_B.default.weight", ".lora_A.default.weight"),
]
"""Ends of a pair of keys, in the order in which ComfyUI looks for them under each layer's name."""
PAIRS_OF_FORGE = [pair for pair in PAIRS if pair[0] not in (".lora_B", ".lora_B.default.weight")]

TEXT = ("lora_te1_", "lora_te2_", "lora_te3_")


@dataclass(frozen=True)
class Patch:
    """A UI's change of one diffusers layer, by keys of the file: delta W = scale * up[rows] @ down.

    Args:
        turned: the halves of the result are exchanged.
    """

    up: str
    down: str
    scale: float
    rows: tuple[int, int] | None = None
    turned: bool = False


@dataclass
class Reading:
    """What a UI makes of a file.

    Args:
        patches: by diffusers layer; several are added up.
        matched: keys of the file that it uses.
        unmatched: those that it does not.
        refused: why it loads nothing at all.
    """

    patches: dict[str, tuple[Patch, ...]] = field(default_factory=dict)
    matched: set[str] = field(default_factory=set)
    unmatched: tuple[str, ...] = ()
    refused: str | None = None

    def add(self, layer: str, patch: Patch) -> None:
        """One change more for a layer."""
        self.patches[layer] = (*self.patches.get(layer, ()), patch)

    def refuse(self, why: str) -> Reading:
        """The same reading, of which nothing is left."""
        return Reading({}, set(), self.unmatched, why)


File = Mapping[str, Tensor]
Rule = Callable[[File, Mapping[str, str], ModelShape], Reading]


def comfyui(file: File, metadata: Mapping[str, str], shape: ModelShape) -> Reading:
    """ComfyUI, and reForge after it: names of the original and of diffusers in six spellings; metadata is not read."""
    reading = Reading()
    for original in shape.originals:
        for base in (f"lora_unet_{original.replace('.', '_')}", f"diffusion_model.{original}"):
            _take_original(reading, file, base, original, shape, PAIRS)
    for layer in shape.places:
        underscored = layer.replace(".", "_")
        begins = [f"transformer.{layer}", f"base_model.model.{layer}"]
        begins += [f"lora_transformer_{underscored}", f"lycoris_{underscored}"]
        for base in begins:
            for up, down, scale in _pairs(reading, file, base, PAIRS):
                # Where the original has the halves turned, it turns them: for diffusers' layer they are as they were.
                reading.add(layer, Patch(up, down, scale))
    return _ended(reading, file, TEXT)


def forge(file: File, metadata: Mapping[str, str], shape: ModelShape) -> Reading:
    """Forge: names of the original alone."""
    reading = Reading()
    for original in shape.originals:
        for base in (f"lora_unet_{original.replace('.', '_')}", f"diffusion_model.{original}"):
            _take_original(reading, file, base, original, shape, PAIRS_OF_FORGE)
    reading = _ended(reading, file, TEXT)
    if len(reading.unmatched) > FORGE_FORGIVES:
        return reading.refuse(f"{len(reading.unmatched)} unknown keys, more than {FORGE_FORGIVES}")
    return reading


def a1111(file: File, metadata: Mapping[str, str], shape: ModelShape) -> Reading:
    """A1111: kohya's names, and no model with dual attention."""
    reading = Reading()
    if shape.dual_attention:
        return reading.refuse("it can't run a model with dual attention")
    for original in shape.originals:
        base = f"lora_unet_{original.replace('.', '_')}"
        _take_original(reading, file, base, original, shape, PAIRS[:1])
    return _ended(reading, file, TEXT[:2])


def sdnext(file: File, metadata: Mapping[str, str], shape: ModelShape) -> Reading:
    """SD.Next's own loader: diffusers' names with lora_down, lora_up; it exchanges the streams of kohya's files."""
    reading = Reading()
    if any(key.startswith("lora_unet_") for key in file):
        return reading.refuse("it swaps the image and text layers of kohya's layout")
    for layer in shape.places:
        for base in (f"lora_transformer_{layer.replace('.', '_')}", f"transformer.{layer}"):
            for up, down, scale in _pairs(reading, file, base, PAIRS[:1]):
                reading.add(layer, Patch(up, down, scale))
    return _ended(reading, file, TEXT[:2])


def diffusers(file: File, metadata: Mapping[str, str], shape: ModelShape) -> Reading:
    """diffusers' load_lora_weights, and SD.Next with its option to load LoRAs by diffusers."""
    reading = Reading()
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
"""By the name of the UI."""


def _pairs(reading: Reading, file: File, base: str, pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str, float]]:
    """The first pair of keys under a base name, and its scale; notes them as matched."""
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
    reading: Reading, file: File, base: str, original: str, shape: ModelShape, pairs: list[tuple[str, str]]
) -> None:
    """A change of a whole layer of the original, which is up to three layers of diffusers."""
    for up, down, scale in _pairs(reading, file, base, pairs):
        for layer in shape.originals[original]:
            place = shape.places[layer]
            reading.add(layer, Patch(up, down, scale, place.rows, place.turned))


def _ended(reading: Reading, file: File, text: tuple[str, ...]) -> Reading:
    reading.matched |= {key for key in file if key.startswith(text)}
    reading.unmatched = tuple(key for key in file if key not in reading.matched)
    return reading
