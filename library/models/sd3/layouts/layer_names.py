"""The layers of SD3 under the names that programs give them in LoRA files.

A name is the start that tells a program, and then the layer in the original model's names or in diffusers', with dots
or with underscores. No name means two layers, so any begin may stand before either.
"""

from __future__ import annotations

from collections.abc import Iterable

from library.adapters.changes import FileChange
from library.errors import ModelError
from library.models.sd3.layouts.kohya import from_original, names_of_original
from library.models.sd3.layouts.onetrainer import with_dots
from library.models.sd3.layouts.text_encoders import text_layer

SPELLINGS = {
    "lora_unet_": "kohya",
    "diffusion_model.": "generic",
    "lora_transformer_": "OneTrainer",
    "lycoris_": "SimpleTuner",
    "transformer.base_model.model.": "SimpleTuner of 2024",
    "transformer.": "diffusers",
    "base_model.model.": "PEFT",
    "": "OneTrainer or diffusers without a prefix",
}
"""Begins of the names of the transformer's layers, and whose they are; the first that fits counts."""


def is_known(base: str) -> bool:
    """Whether a name is that of a layer of SD3 or of its text encoders."""
    return text_layer(base) is not None or _in_transformer(base) is not None


def spellings_of(bases: Iterable[str]) -> list[str]:
    """Whose names those of the transformer's layers are, each program once."""
    begins = [_begin_of(base) for base in bases if text_layer(base) is None]
    return list(dict.fromkeys(SPELLINGS[begin] for begin in begins))


def named(base: str, change: FileChange, source: str) -> dict[str, FileChange]:
    """The diffusers layers that a layer of a file is, each with its part of the change; one of a text encoder begins
    with "text_encoder".

    Args:
        source: the file, for error messages.

    Raises:
        ModelError: no such layer, or the shape can't be.
    """
    text = text_layer(base)
    if text is not None:
        return {text: change}
    flat = _in_transformer(base)
    if flat is None:
        raise ModelError(
            f"{source} has a LoRA for {base[:120]!r}, which is not a layer of SD3.", "Check that it is a LoRA for SD3."
        )
    dotted = with_dots(flat)
    return {dotted: change} if dotted else from_original(flat, change, source)


def _begin_of(base: str) -> str:
    return next(begin for begin in SPELLINGS if base.startswith(begin))


def _in_transformer(base: str) -> str | None:
    """The name without its start, with underscores; None if the transformer has no such layer."""
    flat = base.removeprefix(_begin_of(base)).replace(".", "_")
    return flat if with_dots(flat) or names_of_original(flat) else None
