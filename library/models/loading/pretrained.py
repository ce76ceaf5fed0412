"""Loads models of `transformers` from folders: only safetensors, complete, into a named class, never with own code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from library.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pretrained = TypeVar("Pretrained", bound="PreTrainedModel")


def check_model_type(folder: Path, wanted: Sequence[str]) -> None:
    """Checks that the folder's config.json is for the right kind of model.

    Raises:
        ModelError: it is not.
    """
    file = folder / "config.json"
    try:
        said = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{file} can't be read: {error}.") from error
    if said not in wanted:
        raise ModelError(f'{folder} contains a model of type "{said}" instead of "{wanted[0]}".', "Check the folder.")


def load_pretrained(
    kind: type[Pretrained], folder: Path, dtype: torch.dtype = torch.float32, **options: Any
) -> Pretrained:
    """A model of `transformers` from its folder, in evaluation mode; nothing is ever downloaded.

    Raises:
        ModelError: weights are missing or don't fit.
    """
    try:
        loaded = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder} does not load as {kind.__name__}: {reason}") from error
    model, said = cast("tuple[Pretrained, dict[str, Any]]", loaded)  # with output_loading_info, it returns both
    lost = sorted({*said["missing_keys"], *(str(key) for key in said.get("mismatched_keys", ()))})
    if lost:
        raise ModelError(f"{folder} lacks {len(lost)} tensors of a {kind.__name__}, such as {lost[0]}.")
    return model.eval().requires_grad_(False)
