"""The finished model as a folder that `StableDiffusion3Pipeline.from_pretrained` loads."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from library.files.atomic import write_folder
from tools.pocket.flow import TIMESTEPS, TextToFlow


def publish(vae: AutoencoderKL, model: TextToFlow, shift: float, folder: Path) -> None:
    """Writes everything in float16.

    Args:
        shift: of the noise levels for drawing.
    """
    parts = {
        name: copy.deepcopy(getattr(model, name)).half().cpu()
        for name in ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
    }
    tokenizers = zip(("tokenizer", "tokenizer_2", "tokenizer_3"), model.tokenizers, strict=True)
    pipeline = StableDiffusion3Pipeline(
        vae=copy.deepcopy(vae).half().cpu(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=shift),
        **parts,
        **dict(tokenizers),
    )
    write_folder(folder, lambda path: _save(pipeline, path))


def _save(pipeline: StableDiffusion3Pipeline, folder: Path) -> None:
    """Makes the text encoders load in float32 by default, like the other parts; no file says where one came from."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    for file in folder.glob("*/config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        if file.parent.name.startswith("text_encoder"):
            config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
