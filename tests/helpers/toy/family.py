"""Registers the toy as a family, and writes a folder with a toy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from torch import nn
from transformers import AutoTokenizer

from library.adapters.changes import FileChange
from library.adapters.lora_names import ALL_NAMES, Layout, LoraNames
from library.adapters.peft import to_peft
from library.adapters.uis.loaders import Loaders, Patch, UiReading
from library.config.model_settings import ModelSettings
from library.models.family import FAMILIES, Family, ModelFiles, register
from library.models.loading.tensor_file import TensorFile
from library.models.loading.weights import Slot
from library.models.memory.residence import Residence
from tests.helpers.tiny import TOKENIZERS, tiny_vae
from tests.helpers.toy.model import ToyModel
from tests.helpers.toy.transformer import ToyTextEncoder, ToyTransformer

PREFIX = "transformer."
LISTS = ("double_blocks", "single_blocks")
SHAPE = {"double": 2, "single": 2, "width": 32, "text_width": 24, "channels": 4}
"""The transformer's configuration."""


def blank(part: str, config: Mapping[str, Any]) -> nn.Module:
    """A part on the meta device."""
    with torch.device("meta"):
        if part == "vae":
            return AutoencoderKL.from_config(dict(config))
        return (ToyTransformer if part == "transformer" else ToyTextEncoder)(**config)


def is_known(base: str) -> bool:
    """Whether a name in a LoRA file belongs to a layer of the toy."""
    return base.removeprefix(PREFIX).startswith(tuple(f"{name}." for name in LISTS))


def named(base: str, change: FileChange, source: str) -> dict[str, FileChange]:
    """The layer of that name."""
    return {base.removeprefix(PREFIX): change}


def spellings_of(bases: Iterable[str]) -> list[str]:
    """The programs that name layers like this."""
    return list(dict.fromkeys("the toy" for _ in bases))


def viewer(file: Mapping[str, torch.Tensor], metadata: Mapping[str, str], layers: set[str]) -> UiReading:
    """The only program that loads LoRAs of the toy."""
    reading = UiReading()
    for layer in layers:
        up, down = (f"{PREFIX}{layer}.lora_{half}.weight" for half in "BA")
        if up in file and down in file:
            reading.add(layer, Patch(up, down, 1.0))
            reading.matched |= {up, down}
    reading.unmatched = tuple(key for key in file if key not in reading.matched)
    return reading


def layers_of(transformer: nn.Module) -> set[str]:
    """The linear layers of a transformer; wrapped ones have the name of what they wrap."""
    return {name.removesuffix(".base") for name, one in transformer.named_modules() if hasattr(one, "out_features")}


def slots_of(part: str, file: TensorFile, config: Mapping[str, Any]) -> tuple[dict[str, Slot], list[str]]:
    """Every tensor under its own name."""
    return {name: Slot(name) for name in file.entries}, []


def opened(files: ModelFiles, settings: ModelSettings, device: torch.device, dtype: torch.dtype) -> ToyModel:
    """A toy from a folder."""
    return ToyModel(files, device=device, dtype=dtype, residence=Residence.of(settings))


TOY = Family(
    name="toy",
    title="the toy",
    pipeline="ToyPipeline",
    parts=("transformer", "vae", "text_encoder"),
    tokenizers=("tokenizer",),
    blank=blank,
    slots_of=slots_of,
    model=opened,
    lora_names=LoraNames(
        model="the toy",
        layouts={"diffusers": Layout("", to_peft)},
        block_lists=LISTS,
        is_known=is_known,
        spellings_of=spellings_of,
        named=named,
    ),
    loaders=Loaders({"viewer": viewer}, layers_of, {"diffusers": ("viewer",)}, {"viewer": "models/toys"}),
    card_presets={4: ("toy", (8,))},
)


@contextmanager
def at_the_door() -> Iterator[Family]:
    """Inside, the toy is a registered family."""
    try:
        yield register(TOY)
    finally:
        FAMILIES.pop(TOY.name, None)
        if TOY.lora_names in ALL_NAMES:
            ALL_NAMES.remove(TOY.lora_names)


def save_toy(folder: Path) -> Path:
    """Writes a complete model with random weights."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer")
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    tiny_vae().save_pretrained(folder / "vae", safe_serialization=True)
    texts = {"vocabulary": len(tokenizer), "width": SHAPE["text_width"]}
    for part, module, config in (
        ("transformer", ToyTransformer(**SHAPE), SHAPE),
        ("text_encoder", ToyTextEncoder(**texts), texts),
    ):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
        save_file(module.state_dict(), folder / part / "model.safetensors")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": TOY.pipeline}))
    return folder
