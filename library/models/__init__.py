"""Pretrained models. `load_model` opens a folder as whatever family it is."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from library.config.settings import ModelSettings
from library.errors import ModelError
from library.models.interface import FlowModel, Prompt, PromptBatch, TextStates
from library.models.residence import Residence
from library.models.sd3 import SD3Model

__all__ = ["FlowModel", "Prompt", "PromptBatch", "TextStates", "load_model"]

FAMILIES = {"StableDiffusion3Pipeline": SD3Model}
"""Model families by the pipeline class that their folder names."""

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


def load_model(settings: ModelSettings) -> FlowModel:
    """Opens a pretrained model. Nothing heavy is read yet: each part is loaded when it is first used.

    Raises:
        ModelError: no such folder, or not a model that this trainer knows.
    """
    folder = Path(settings.pretrained_model_name_or_path).expanduser()
    if folder.is_file():
        raise ModelError(
            f"pretrained_model_name_or_path: {folder} is a file; a folder in diffusers format is needed.",
            "Download the model's repository as a folder, with model_index.json in it.",
        )
    if not folder.is_dir():
        raise ModelError(
            f"pretrained_model_name_or_path: there is no folder {folder.absolute()}.",
            "Download the model first: hf download stabilityai/stable-diffusion-3.5-medium --local-dir FOLDER.",
        )
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(
            f"pretrained_model_name_or_path: {folder} has no model_index.json, so it is not a diffusers model folder.",
            "Give the folder that holds transformer, vae and text_encoder.",
        )
    try:
        pipeline = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{index} can't be read: {error}.", "Download the model again.") from error
    if pipeline not in FAMILIES:
        raise ModelError(
            f"pretrained_model_name_or_path: {folder} is a {pipeline}, which this trainer can't train.",
            "It trains Stable Diffusion 3 and 3.5 (StableDiffusion3Pipeline).",
        )
    return FAMILIES[pipeline](
        folder,
        device=pick_device(settings.device),
        dtype=DTYPES[settings.mixed_precision],
        t5_length=settings.t5xxl_max_token_length,
        residence=Residence.of(settings),
    )
