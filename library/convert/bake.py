"""Merges a LoRA into a checkpoint, tensor by tensor, so that the model may be larger than memory.

The new file has the tensors of the old one, in their order and precision. It measures what rounding loses.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from library.adapters.changes import FileChange
from library.adapters.lora_names import names_of
from library.errors import ModelError
from library.files.atomic import write_folder, written

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Precisions that a LoRA can be put into."""
PIECE = 1 << 24
"""Bytes copied at a time."""


@dataclass
class Baked:
    """The result.

    Args:
        layers: how many weights were changed.
        lost: the share of the update's length lost by rounding to the checkpoint's precision.
    """

    layers: int = 0
    lost: float = 0.0
    _squares: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def note(self, before: Tensor, after: Tensor, update: Tensor) -> None:
        """Adds one weight."""
        self.layers += 1
        self._squares[0] += float((after.float() - before - update).square().sum())
        self._squares[1] += float(update.square().sum())
        self.lost = math.sqrt(self._squares[0] / self._squares[1]) if self._squares[1] else 0.0


def bake(changes: Mapping[str, FileChange], model: Path, output: Path) -> Baked:
    """Writes a checkpoint with the LoRA in it.

    Args:
        changes: by diffusers name.
        model: a single-file checkpoint, or a folder in diffusers format, of a pipeline or of its transformer alone.
        output: the file, or the folder, to write. Other parts of a pipeline are linked where the disk can, else copied.

    Raises:
        ModelError: the checkpoint lacks a layer, or has another shape or precision. Then nothing is written.
    """
    if any(name.startswith(names_of(changes).text_encoders) for name in changes):
        raise ModelError(
            "The LoRA also changes the text encoders, but only the transformer can be written.",
            "Add --transformer_only if you can do without that part.",
        )
    part = model / "transformer" if (model / "transformer").is_dir() else model
    files = [model] if model.is_file() else sorted(part.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{model} is neither a .safetensors file nor a folder with a model's transformer.")
    headers = {file: _header(file) for file in files}
    updates = _updates(changes, headers, model)
    need = sum(file.stat().st_size for file in files)
    free = shutil.disk_usage(next(parent for parent in output.absolute().parents if parent.exists())).free
    if free < need:
        raise ModelError(f"{output} needs {need / 2**30:.1f} GiB, but the disk has only {free / 2**30:.1f} GiB.")
    baked = Baked()
    if model.is_file():
        with written(output) as temporary:
            _write(model, headers[model], updates, temporary, baked)
        return baked

    def fill(folder: Path) -> None:
        shutil.copytree(model, folder, copy_function=_link_or_copy, dirs_exist_ok=True)
        for file in files:
            copy = folder / file.relative_to(model)
            copy.unlink()
            _write(file, headers[file], updates, copy, baked)

    write_folder(output, fill)
    return baked


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def _header(file: Path) -> dict[str, Any]:
    """Names, shapes, places and metadata of a safetensors file, checked by the library that owns the format."""
    try:
        with safe_open(file, framework="pt"), file.open("rb") as raw:
            return json.loads(raw.read(int.from_bytes(raw.read(8), "little")))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} can't be read: {error}.", "It may be damaged; download it again.") from error


def _updates(
    changes: Mapping[str, FileChange], headers: Mapping[Path, dict[str, Any]], model: Path
) -> dict[str, FileChange]:
    """The update of each tensor by its name in the checkpoint; every layer has found its place.

    Raises:
        ModelError: it is missing, or the shape does not fit.
    """
    entries = {name: entry for header in headers.values() for name, entry in header.items() if name != "__metadata__"}
    if any(name.endswith(("scaled_fp8", ".scale_weight")) for name in entries):
        raise ModelError(f"{model} contains scaled 8-bit weights.", "Use a 16-bit checkpoint.")
    updates, left = names_of(changes).in_checkpoint(changes, entries)
    if left:
        raise ModelError(
            f"{model} has no layer {left[0]}, which the LoRA changes ({len(left)} such).",
            "Use a checkpoint of the model that the LoRA was trained on.",
        )
    for name, update in updates.items():
        entry = entries[name]
        if entry["dtype"] not in DTYPES:
            raise ModelError(
                f"{model}: {name} is in {entry['dtype']}, where rounding would lose the update.",
                "Use a 16-bit or 32-bit checkpoint.",
            )
        shape = entry["shape"]
        if not shape or update.shape != (shape[0], math.prod(shape[1:])):
            raise ModelError(
                f"{model}: {name} is {shape}, which does not fit the LoRA.",
                "Use a checkpoint of the model that the LoRA was trained on.",
            )
    return updates


def _write(file: Path, header: dict[str, Any], updates: Mapping[str, FileChange], output: Path, baked: Baked) -> None:
    """Copies a safetensors file, its tensors changed where there is an update. Their places stay the same."""
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    said = {**header.get("__metadata__", {}), "format": "pt"}
    said.pop("modelspec.hash_sha256", None)
    text = json.dumps({"__metadata__": said, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("rb") as source, output.open("wb") as target:
        data = 8 + int.from_bytes(source.read(8), "little")
        target.write(len(text).to_bytes(8, "little") + text)
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            source.seek(data + begin)
            if name in updates:
                target.write(_changed(source.read(end - begin), entry, updates[name], baked))
            else:
                _copy(source, target, end - begin)


def _changed(raw: bytes, entry: dict[str, Any], update: FileChange, baked: Baked) -> bytes:
    dtype = DTYPES[entry["dtype"]]
    before = torch.frombuffer(bytearray(raw), dtype=dtype).reshape(entry["shape"])
    change = update.delta().reshape(before.shape)
    after = (before.to(torch.promote_types(dtype, torch.float32)) + change).to(dtype)
    if not after.isfinite().all():
        raise ModelError(f"With the LoRA added, a weight becomes too large for {entry['dtype']}.")
    baked.note(before.float(), after, change)
    return after.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count:
        piece = source.read(min(PIECE, count))
        target.write(piece)
        count -= len(piece)
