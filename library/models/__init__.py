"""Pretrained models. `load_model` opens a folder, a single file or a model on the hub."""

from __future__ import annotations

from pathlib import Path

import torch

from library.config.model_settings import ModelSettings
from library.errors import ModelError, naming
from library.models.interface import BaseChange, FlowModel, Prompt, PromptBatch, TextStates
from library.models.loading.hub import HubFiles, is_hub_id
from library.models.loading.model_files import FolderFiles, ModelFiles
from library.models.memory.residence import Residence
from library.models.sd3.model import SD3Model
from library.models.sd3.single_file import CONFIGURATIONS, SETTINGS, PartsApart, SingleFile

__all__ = ["BaseChange", "FlowModel", "Prompt", "PromptBatch", "TextStates", "load_model"]

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first NVIDIA card, or the CPU.

    Raises:
        ModelError: PyTorch sees no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f'device: PyTorch can\'t use "{name}".', 'Set device = "auto" or "cpu".') from error
    return device


def sum_in_float32() -> None:
    """Products of 16-bit matrices on NVIDIA cards add up in float32 all the way.

    By default PyTorch lets partial sums meet in 16 bits, and guidance is a small difference of two predictions.
    """
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def load_model(settings: ModelSettings) -> FlowModel:
    """Opens a pretrained model. Nothing heavy is read yet: each part is loaded when it is first used.

    Raises:
        ModelError: no such model, or not one that this trainer knows.
    """
    sum_in_float32()
    return SD3Model(
        open_model_files(settings),
        device=pick_device(settings.device),
        dtype=DTYPES[settings.mixed_precision],
        t5_length=settings.t5xxl_max_token_length,
        residence=Residence.of(settings),
        masked=(settings.apply_lg_attn_mask, settings.apply_lg_attn_mask, settings.apply_t5_attn_mask),
    )


def open_model_files(settings: ModelSettings) -> ModelFiles:
    """The files that the settings name, their headers checked.

    Raises:
        ModelError: see `load_model`.
    """
    given = {part: getattr(settings, name) for part, name in SETTINGS.items() if getattr(settings, name)}
    paths = {part: Path(path).expanduser() for part, path in given.items()}
    name = settings.pretrained_model_name_or_path
    place = Path(name).expanduser()
    model: ModelFiles
    if place.is_file() or place.is_dir():
        with naming("pretrained_model_name_or_path"):
            model = FolderFiles(place) if place.is_dir() else SingleFile(place, list(given), CONFIGURATIONS)
    elif is_hub_id(name):
        model = HubFiles(name, offline=settings.offline)
    else:
        raise ModelError(
            f"pretrained_model_name_or_path: the file or folder {place.absolute()} doesn't exist.",
            "Use the .safetensors file from ComfyUI, or download the model: hf download "
            "stabilityai/stable-diffusion-3.5-medium --local-dir FOLDER",
        )
    return PartsApart(model, paths) if paths else model
