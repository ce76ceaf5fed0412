"""A scorer's folder: what has to be in it, whether it is, and whose weights they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from library.errors import ModelError
from library.files.fingerprint import of_file
from library.files.tensor_storage import read_tensors

Model = TypeVar("Model", bound=torch.nn.Module)
WEIGHTS = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def missing_files(folder: Path, files: Sequence[str]) -> list[str]:
    """Those of `files` that the folder lacks."""
    return [name for name in files if not (folder / name).is_file()]


def pickle_in(folder: Path) -> Path | None:
    """A pickled file that the user may have taken for the weights."""
    return next((file for pattern in PICKLES for file in sorted(folder.glob(pattern))), None)


def missing_packages(packages: Sequence[str]) -> list[str]:
    """Those that are not installed."""
    return [name for name in packages if find_spec(name) is None]


def check_shapes(file: Path, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Checks whether a weights file has these tensors in these shapes, without reading them.

    Raises:
        ModelError: it has not, or is damaged.
    """
    try:
        with safe_open(file, "pt") as tensors:
            names = set(tensors.keys())
            for name, shape in wanted.items():
                if name not in names:
                    raise ModelError(f"{file} has no tensor {name}; it is for another model.", "Check the folder.")
                found = tuple(tensors.get_slice(name).get_shape())
                if found != shape:
                    raise ModelError(
                        f"{file}: {name} has the shape {found} instead of {shape}; it is for another model."
                    )
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} can't be read: {error}.", "It may be damaged; download it again.") from error


def sha256_of(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """SHA-256 of each file."""
    return {name: of_file(folder / name) for name in files}


def load_into(model: Model, tensors: Mapping[str, Tensor], source: Path) -> Model:
    """Puts weights into a model of ours; every tensor must have its place.

    Raises:
        ModelError: they do not fit.
    """
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ModelError(f"{source} does not fit {type(model).__name__}: {reason}") from error
    return model.eval().requires_grad_(False)


def read_weights(file: Path) -> dict[str, Tensor]:
    """All tensors of a file.

    Raises:
        ModelError: damaged.
    """
    try:
        return read_tensors(file)[0]
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} can't be read: {error}.", "It may be damaged; download it again.") from error
