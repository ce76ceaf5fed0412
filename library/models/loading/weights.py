"""The weights of one part of a model, wherever they are stored, and how they get into a module."""

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

ALIGNMENT = 64
"""Bytes: where PyTorch lets its own tensors on the CPU begin."""
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
"""Types of weights that can be read."""


@dataclass(frozen=True)
class Slot:
    """Where a weight of the model is in a file."""

    key: str
    """The tensor's name in the file."""
    rows: tuple[tuple[int, int], ...] | None = None
    """Ranges of its rows, in order, each as start and end; None: all."""
    scale: str | None = None
    """Name of the tensor that it is multiplied by."""


@dataclass(frozen=True)
class PartWeights:
    """Weights by their names in the part's module."""

    where: str
    """Its name in messages: a file or a folder."""
    slots: Mapping[str, tuple[TensorFile, Slot]]
    fixed: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights that no file holds, because they are always the same."""

    def read(self, name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """One weight, not to be written to; an 8-bit weight is multiplied by its scale.

        On the CPU it is the mapped file itself wherever its type fits and nothing has to be computed.

        Raises:
            ModelError: the file lacks it, or has it in a type that can't be read.
        """
        if name in self.fixed:
            return self.fixed[name].to(device, dtype)
        if name not in self.slots:
            raise ModelError(f"{self.where} lacks {name}.", "Download it again, or use another file.")
        file, slot = self.slots[name]
        if file.entries[slot.key].dtype not in FLOATS:
            raise ModelError(
                f"{file.path} has {slot.key} quantised to {file.entries[slot.key].dtype}, which can't be read.",
                "Use a 16-bit or fp8 version.",
            )
        tensor = _rows(file.read(slot.key), slot).to(device)
        if slot.scale:
            scale = file.read(slot.scale).to(device, torch.float32)
            if scale.numel() not in (1, file.entries[slot.key].shape[0]):
                raise ModelError(
                    f"{file.path} has {slot.key} quantised in blocks, which can't be read.",
                    "Use a 16-bit version, or fp8 with one scale per weight.",
                )
            if scale.numel() > 1:
                scale = _rows(scale.flatten(), slot).view(-1, *[1] * (tensor.ndim - 1))
            tensor = tensor.float() * scale
        return _aligned(tensor.to(dtype))

    def read_rows(self, name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Some rows of one weight, on the CPU; reads only those rows of the file.

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
        """Weights one by one: only one is in memory, besides those that the caller keeps."""
        for name in names:
            yield name, self.read(name, dtype, device)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A weight's shape, from the header; None if it is missing."""
        if name in self.fixed:
            return tuple(self.fixed[name].shape)
        if name not in self.slots:
            return None
        file, slot = self.slots[name]
        shape = file.entries[slot.key].shape
        return shape if slot.rows is None else (sum(end - begin for begin, end in slot.rows), *shape[1:])

    def fingerprint(self) -> str:
        """Changes with names, types and values across the weights, but not with a file's name or other parts."""
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
    # As bytes, since not every operation supports 8-bit floats.
    return runs[0] if len(runs) == 1 else torch.cat([run.view(torch.uint8) for run in runs]).view(tensor.dtype)


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where its place in a file could change the last bits of what it computes.

    The product of a single row with a float32 matrix adds up in another order if the matrix begins at another place.
    """
    exact = tensor.dtype != torch.float32 or tensor.device.type != "cpu" or tensor.data_ptr() % ALIGNMENT == 0
    return tensor if exact else tensor.clone()


def misfit(module: nn.Module, weights: PartWeights, prefix: str = "") -> str | None:
    """The first weight of a module that is missing or has another shape, as text; None if all are there."""
    for name, wanted in needed_by(module).items():
        shape = weights.shape(prefix + name)
        if shape is None:
            return f"{prefix + name} is missing"
        if _without_ones(shape) != _without_ones(tuple(wanted.shape)):
            return f"{name} is {' x '.join(map(str, shape))} instead of {' x '.join(map(str, wanted.shape))}"
    return None


def needed_by(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that a module needs, by name, without those that are tied to another weight."""
    tied = set(getattr(module, "_tied_weights_keys", None) or ())
    return {name: tensor for name, tensor in module.state_dict().items() if name not in tied}


def fill(
    module: nn.Module, weights: PartWeights, dtype: torch.dtype, device: torch.device | str, prefix: str = ""
) -> nn.Module:
    """Gives a module on the meta device its weights, one by one; returns it frozen, in eval mode.

    Its weights may be the mapped file: replace them, never write to them.

    Args:
        prefix: start of the weights' names, for a module inside the part, whose own names lack it.

    Raises:
        ModelError: a weight is missing or has another shape.
    """
    problem = misfit(module, weights, prefix)
    if problem:
        raise ModelError(f"{weights.where} does not fit: {problem}.", "Download it again, or use another file.")
    wanted = needed_by(module)
    for name, tensor in weights.tensors((prefix + name for name in wanted), dtype, device):
        put(module, name.removeprefix(prefix), tensor.view(wanted[name.removeprefix(prefix)].shape))
    tie = getattr(module, "tie_weights", None)
    if tie is not None:
        tie()
    return module.requires_grad_(False).eval().to(device)


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replaces a module's parameter or buffer of that name with a tensor."""
    path, _, last = name.rpartition(".")
    owner: Any = module.get_submodule(path)
    if last in owner._parameters:
        setattr(owner, last, nn.Parameter(tensor, requires_grad=False))
    else:
        owner._buffers[last] = tensor


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing ones: a 1 x 1 convolution is a linear layer."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
