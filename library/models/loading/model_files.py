"""A model as files, and the simplest case: a folder in diffusers format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from library.errors import ModelError
from library.models.family import FAMILIES
from library.models.loading.tensor_file import TensorFile
from library.models.loading.weights import PartWeights, Slot

OTHER_PRECISION = re.compile(r"\.(fp16|bf16)[.-]")
"""Marks the names of files that hold a second copy of a part."""


class FolderFiles:
    """A folder in diffusers format.

    Raises:
        ModelError: it isn't one, or its family is not registered.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)
        if not (folder / "model_index.json").is_file():
            raise ModelError(
                f"pretrained_model_name_or_path: {folder} has no model_index.json, so it is not a diffusers model "
                "folder.",
                "Give the folder that contains transformer, vae and text_encoder, or a single .safetensors file.",
            )
        pipeline = self._json("model_index.json").get("_class_name")
        family = next((one for one in FAMILIES.values() if one.pipeline == pipeline), None)
        if family is None:
            known = " and ".join(f"{one.title} ({one.pipeline})" for one in FAMILIES.values())
            raise ModelError(
                f"pretrained_model_name_or_path: {folder} is a {pipeline}, which this trainer can't train.",
                f"It trains {known}.",
            )
        self.family = family

    def config(self, part: str) -> dict[str, Any]:
        return self._json("scheduler/scheduler_config.json" if part == "scheduler" else f"{part}/config.json")

    def tokenizers(self) -> list[Any]:
        from transformers import AutoTokenizer

        try:
            return [
                AutoTokenizer.from_pretrained(self.folder / name, local_files_only=True)
                for name in self.family.tokenizers
            ]
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"{self.folder}: a tokenizer can't be loaded: {reason}.", "Download the model again."
            ) from error

    def weights(self, part: str) -> PartWeights:
        folder = self.folder / part
        names = chosen_files([path.name for path in sorted(folder.glob("*.safetensors"))])
        if not names:
            raise ModelError(
                f"{folder} contains no .safetensors file.",
                "Download the model again. Pickled weights are never opened.",
            )
        slots: dict[str, tuple[TensorFile, Slot]] = {}
        for file in (TensorFile(folder / name) for name in names):
            found, _ = self.family.slots_of(part, file, {})
            slots |= {name: (file, slot) for name, slot in found.items()}
        return PartWeights(str(folder), slots)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            read = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.folder / name} can't be read: {error}.", "Download the model again.") from error
        if not isinstance(read, dict):
            raise ModelError(f"{self.folder / name} is not a valid configuration.", "Download the model again.")
        return read


def chosen_files(names: list[str]) -> list[str]:
    """The files of a part among these; 16-bit files, with ".fp16" in their names, only if there are no others."""
    full = [name for name in names if not OTHER_PRECISION.search(name)]
    return full or names
