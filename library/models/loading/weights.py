"""The weights of one part of a model, wherever they stand, and how they get into a module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from library.errors import ModelError
from library.files import fingerprint
from library.models.loading.tensor_file import TensorFile

FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
"""Types of weights that can be read."""


@dataclass(frozen=True)
class Slot:
    """Where a weight of the model stands in a file."""

    key: str
    """The tensor's name in the file."""
    rows: tuple[tuple[int, int], ...] | None = None
    """Runs of its rows, in order, each from and up to; None: all."""
    scale: str | None = None
    """Name of the tensor that it is multiplied by."""


@dataclass(frozen=True)
class PartWeights:
    """Weights by the names that the part's module gives them."""

    where: str
    """What messages call it: a file or a folder."""
    slots: Mapping[str, tuple[TensorFile, Slot]]
    fixed: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights that no file holds, because they are always the same."""

    def read(self, name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """One weight, freshly allocated; in 8 bits it is multiplied by its scale.

        Raises:
            ModelError: the file lacks it or has it in a type that can't be read.
        """
        if name in self.fixed:
            return self.fixed[name].to(device, dtype, copy=True)
        if name not in self.slots:
            raise ModelError(f"{self.where} lacks {name}.", "Download it again, or take another file.")
        file, slot = self.slots[name]
        if file.entries[slot.key].dtype not in FLOATS:
            raise ModelError(
                f"{file.path} has {slot.key} quantised to {file.entries[slot.key].dtype}, which can't be read.",
                "Take the file in 16 bits, or in fp8.",
            )
        tensor = _rows(file.read(slot.key), slot).to(device, copy=True)
        if slot.scale:
            scale = file.read(slot.scale).to(device, torch.float32)
            if scale.numel() not in (1, file.entries[slot.key].shape[0]):
                raise ModelError(
                    f"{file.path} has {slot.key} quantised in blocks, which can't be read.",
                    "Take the file in 16 bits, or in fp8 with one scale for each weight.",
                )
            if scale.numel() > 1:
                scale = _rows(scale.flatten(), slot).view(-1, *[1] * (tensor.ndim - 1))
            tensor = tensor.float() * scale
        return tensor.to(dtype)

    def read_rows(self, name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Some rows of one weight, on the CPU; of the file, no more than those rows is read.

        Raises:
            ModelError: see `read`.
        """
        if name not in self.slots:
            return self.read(name, dtype)[rows]
        file, slot = self.slots[name]
        if slot.scale or slot.rows or file.entries[slot.key].dtype not in FLOATS:
            return self.read(name, dtype)[rows]
        return torch.stack([file.read(slot.key)[int(row)].to(dtype, copy=True) for row in rows])

    def tensors(
        self, names: Iterable[str], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[str, Tensor]]:
        """Weights one after the other: no more than one is in memory besides what the caller keeps."""
        for name in names:
            yield name, self.read(name, dtype, device)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A weight's shape, from the header; None if it is not there."""
        if name in self.fixed:
            return tuple(self.fixed[name].shape)
        if name not in self.slots:
            return None
        file, slot = self.slots[name]
        shape = file.entries[slot.key].shape
        return shape if slot.rows is None else (sum(end - begin for begin, end in slot.rows), *shape[1:])

    def fingerprint(self) -> str:
        """Changes with names, types and values all over the weights; not with a file's name or its other parts."""
        described: dict[str, list[Any]] = {}
        places: dict[tuple[Path, int, int], None] = {}
        for name, (file, slot) in sorted(self.slots.items()):
            entry = file.entries[slot.key]
            described[name] = [slot.rows, entry.dtype, entry.shape]
            places[file.path, entry.begin, entry.end] = None
            if slot.scale:
                scale = file.entries[slot.scale]
                places[file.path, scale.begin, scale.end] = None
        return fingerprint.of_key({"names": described, "weights": fingerprint.of_places(list(places))})


def _rows(tensor: Tensor, slot: Slot) -> Tensor:
    if slot.rows is None:
        return tensor
    runs = [tensor[begin:end] for begin, end in slot.rows]
    # As bytes, since not every operation knows floats of 8 bits.
    return runs[0] if len(runs) == 1 else torch.cat([run.view(torch.uint8) for run in runs]).view(tensor.dtype)


def misfit(module: nn.Module, weights: PartWeights, prefix: str = "") -> str | None:
    """The first weight of a module that is missing or has another shape, in words; None if all are there."""
    for name, wanted in needed_by(module).items():
        shape = weights.shape(prefix + name)
        if shape is None:
            return f"{prefix + name} is missing"
        if _without_ones(shape) != _without_ones(tuple(wanted.shape)):
            return f"{name} is {' x '.join(map(str, shape))} instead of {' x '.join(map(str, wanted.shape))}"
    return None


def needed_by(module: nn.Module) -> dict[str, Tensor]:
    """What a module needs to be given, by name; what is tied to another weight is left out."""
    tied = set(getattr(module, "_tied_weights_keys", None) or ())
    return {name: tensor for name, tensor in module.state_dict().items() if name not in tied}


def fill(
    module: nn.Module, weights: PartWeights, dtype: torch.dtype, device: torch.device | str, prefix: str = ""
) -> nn.Module:
    """Gives a module on the meta device its weights, one by one; returns it frozen, in eval mode.

    Args:
        prefix: begin of the weights' names that the module's own lack, if it is a part of the part.

    Raises:
        ModelError: a weight is missing or has another shape.
    """
    problem = misfit(module, weights, prefix)
    if problem:
        raise ModelError(f"{weights.where} does not fit: {problem}.", "Download it again, or take another file.")
    wanted = needed_by(module)
    for name, tensor in weights.tensors((prefix + name for name in wanted), dtype, device):
        put(module, name.removeprefix(prefix), tensor.view(wanted[name.removeprefix(prefix)].shape))
    tie = getattr(module, "tie_weights", None)
    if tie is not None:
        tie()
    return module.requires_grad_(False).eval().to(device)


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Puts a tensor in the place of a module's parameter or buffer of that name."""
    path, _, last = name.rpartition(".")
    owner: Any = module.get_submodule(path)
    if last in owner._parameters:
        setattr(owner, last, nn.Parameter(tensor, requires_grad=False))
    else:
        owner._buffers[last] = tensor


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones at its end: a 1 x 1 convolution is a linear layer."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
