"""The names that programs give SD3's layers in LoRA files.

A name is a prefix that identifies a program, then the layer's name in the original model or in diffusers, with dots or
underscores. No name means two layers, so any prefix may come before either kind.
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
"""Prefixes of the transformer's layer names, and the programs that use them; the first match counts."""


def is_known(base: str) -> bool:
    """Whether SD3 or one of its text encoders has a layer of that name."""
    return text_layer(base) is not None or _in_transformer(base) is not None


def spellings_of(bases: Iterable[str]) -> list[str]:
    """The programs that name the transformer's layers like this, each once."""
    begins = [_begin_of(base) for base in bases if text_layer(base) is None]
    return list(dict.fromkeys(SPELLINGS[begin] for begin in begins))


def named(base: str, change: FileChange, source: str) -> dict[str, FileChange]:
    """The diffusers layers behind a layer of a file, each with its part of the change; names from a text encoder start
    with "text_encoder".

    Args:
        source: the file, for error messages.

    Raises:
        ModelError: no such layer, or the shape is impossible.
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
    """The name without its prefix, with underscores; None if the transformer has no such layer."""
    flat = base.removeprefix(_begin_of(base)).replace(".", "_")
    return flat if with_dots(flat) or names_of_original(flat) else None
