"""Weights that nobody has: a model's files as configurations alone, for what never reads a number of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from unittest.mock import patch

import torch
from torch import Tensor

from library.models.loading.model_files import FolderFiles
from library.models.loading.weights import needed_by


class WithoutNumbers:
    """Stands in for `PartWeights`: of every weight that the part needs it has the shape, and memory with no numbers.

    Args:
        files: the folder, which holds configurations alone.
    """

    def __init__(self, files: FolderFiles, part: str) -> None:
        self.where = f"{part} as shapes alone"
        needed = needed_by(files.family.blank(part, files.config(part)))
        self._shapes = {name: tuple(tensor.shape) for name, tensor in needed.items()}

    def read(self, name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """As large as the weight."""
        return torch.empty(self._shapes[name], dtype=dtype, device=device)

    def read_rows(self, name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """As large as those rows of the weight."""
        return torch.zeros(len(rows), *self._shapes[name][1:], dtype=dtype)

    def tensors(
        self, names: Iterable[str], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[str, Tensor]]:
        """One after the other."""
        for name in names:
            yield name, self.read(name, dtype, device)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A weight's shape; None if the part has no such weight."""
        return self._shapes.get(name)

    def fingerprint(self) -> str:
        """Always the same for a part."""
        return self.where


@contextlib.contextmanager
def without_numbers() -> Iterator[None]:
    """Inside, folders in diffusers format have weights that are shapes alone."""
    with patch.object(FolderFiles, "weights", lambda files, part: WithoutNumbers(files, part)):
        yield
