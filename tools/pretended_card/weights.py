"""Models without weights: folders with configurations alone, for code that never reads a weight's values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from unittest.mock import patch

import torch
from torch import Tensor

from library.models.loading.model_files import FolderFiles
from library.models.loading.weights import needed_by


class WithoutNumbers:
    """Replaces `PartWeights`: every weight that the part needs has its shape, but arbitrary values.

    Args:
        files: the folder, which holds only configurations.
    """

    def __init__(self, files: FolderFiles, part: str) -> None:
        self.where = f"{part} as shapes alone"
        needed = needed_by(files.family.blank(part, files.config(part)))
        self._shapes = {name: tuple(tensor.shape) for name, tensor in needed.items()}

    def read(self, name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """A tensor of the weight's shape, with arbitrary values."""
        return torch.empty(self._shapes[name], dtype=dtype, device=device)

    def read_rows(self, name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Zeros in the shape of these rows of the weight."""
        return torch.zeros(len(rows), *self._shapes[name][1:], dtype=dtype)

    def tensors(
        self, names: Iterable[str], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[str, Tensor]]:
        """The tensors, one after the other."""
        for name in names:
            yield name, self.read(name, dtype, device)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A weight's shape; None if the part has no such weight."""
        return self._shapes.get(name)

    def fingerprint(self) -> str:
        """Depends only on the part."""
        return self.where


@contextlib.contextmanager
def without_numbers() -> Iterator[None]:
    """Inside, weights in folders in diffusers format have shapes, but arbitrary values."""
    with patch.object(FolderFiles, "weights", lambda files, part: WithoutNumbers(files, part)):
        yield
