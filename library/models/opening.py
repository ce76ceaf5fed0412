"""Opens a pretrained model of any family: a folder, a single file or a model on the hub."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from library.config.model_settings import ModelSettings
from library.errors import ModelError, gpu_error, naming
from library.models import folders_with
from library.models.family import FAMILIES, Family, FlowModel, ModelFiles
from library.models.loading.hub import HubFiles, is_hub_id
from library.models.loading.model_files import FolderFiles
from library.models.loading.tensor_file import read_entries
from library.models.loading.what_file import what_is

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first NVIDIA GPU, or the CPU.

    Raises:
        ModelError: PyTorch sees no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        known = gpu_error("device", error)
        what, remedy = (known.what, known.remedy) if known else (None, 'Set device = "auto" or "cpu".')
        raise ModelError(what or f'device: PyTorch can\'t use "{name}".', remedy) from error
    return device


def sum_in_float32() -> None:
    """Makes products of 16-bit matrices on NVIDIA GPUs add up entirely in float32.

    By default PyTorch may combine partial sums in 16 bits, and guidance is a small difference of two predictions.
    """
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def load_model(settings: ModelSettings) -> FlowModel:
    """Opens a pretrained model. Nothing large is read yet: each part is loaded on first use.

    Raises:
        ModelError: no such model, or not one that this trainer supports.
    """
    sum_in_float32()
    files = open_model_files(settings)
    return files.family.model(files, settings, pick_device(settings.device), DTYPES[settings.mixed_precision])


def open_model_files(settings: ModelSettings) -> ModelFiles:
    """The files that the settings name, with checked headers.

    Raises:
        ModelError: see `load_model`.
    """
    name = settings.pretrained_model_name_or_path
    place = Path(name).expanduser()
    model: ModelFiles
    if place.is_file() or place.is_dir():
        with naming("pretrained_model_name_or_path"):
            model = FolderFiles(place) if place.is_dir() else _single_file(place, settings)
    elif is_hub_id(name):
        model = HubFiles(name, offline=settings.offline)
    else:
        raise ModelError(
            f"pretrained_model_name_or_path: the file or folder {place.absolute()} doesn't exist.",
            "Use the .safetensors file from ComfyUI, or download the model: hf download "
            "stabilityai/stable-diffusion-3.5-medium --local-dir FOLDER",
        )
    apart = own_files(settings, model.family)
    return model.family.with_own_files(model, apart) if apart and model.family.with_own_files else model


def kind_of(path: Path) -> str:
    """A model file's kind, by its header, such as "Stable Diffusion 3.5 Medium" or "a LoRA".

    Raises:
        ModelError: it is not a safetensors file.
    """
    return what_is(read_entries(path))


def own_files(settings: ModelSettings, family: Family) -> dict[str, Path]:
    """The files that the settings name for parts, by part."""
    named = {part: getattr(settings, name) for part, name in family.own_files.items()}
    return {part: Path(path).expanduser() for part, path in named.items() if path}


def _single_file(path: Path, settings: ModelSettings) -> ModelFiles:
    """A model in one file, of the family that recognises it; otherwise of the first family that has such files."""
    entries = read_entries(path)
    families = [one for one in FAMILIES.values() if one.single_file]
    family = next((one for one in families if one.recognises(entries)), families[0])
    assert family.single_file is not None
    return family.single_file(path, list(own_files(settings, family)))


for _name in folders_with("family"):
    importlib.import_module(_name)
