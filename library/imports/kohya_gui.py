"""The JSON that the kohya_ss GUI saves: sd-scripts' names, with some of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from library.config.kohya import known_names
from library.imports.imported import FIELDS, Imported

RENAMED = {
    "max_resolution": "resolution",
    "epoch": "max_train_epochs",
    "optimizer": "optimizer_type",
    "sd3_clip_l": "clip_l",
    "sd3_clip_g": "clip_g",
    "sd3_t5xxl": "t5xxl",
    "sd3_cache_text_encoder_outputs": "cache_text_encoder_outputs",
    "sd3_cache_text_encoder_outputs_to_disk": "cache_text_encoder_outputs_to_disk",
    "lora_network_weights": "network_weights",
    "trigger_phrase": "metadata_trigger_phrase",
}
OF_THE_WINDOW = re.compile(
    r"flux|chroma|sdxl|lycoris|lumina|.*_path$|num_(cpu|machines|processes)|multi_gpu|gpu_ids|main_process_port|"
    r"additional_parameters|LoRA_type|sd3_checkbox|v2|v_parameterization|model_list|extra_accelerate|dynamo_|mem_eff|"
    r"stop_text_encoder|save_as_bool|text_encoder_lr|t5xxl_lr|te_|lr_warmup|optimizer_args|network_args"
)
"""Keys that say nothing about training, or that are read below."""


def read(tables: Mapping[str, Any]) -> Imported:
    """The settings of a saved GUI; its folders come along as `train_data_dir` and `reg_data_dir`."""
    found = Imported("the kohya_ss GUI")
    if tables.get("LoRA_type", "Standard") not in ("Standard", "Flux1", "LoRA", "SD3"):
        found.left_out["LoRA_type"] = f"{tables['LoRA_type']}: a plain LoRA is trained"
    for key, value in tables.items():
        name = RENAMED.get(key, key)
        if name == "sample_prompts" and isinstance(value, str):
            found.prompts = [line for line in value.splitlines() if line.strip() and not line.startswith("#")]
        elif value in (None, "", 0, "0", False, [], "None") and name not in ("flip_aug", "seed", "xformers"):
            continue
        elif name == "xformers":
            found.take(name, value == "xformers" or value is True, key)
        elif name in FIELDS or (name in known_names() and not OF_THE_WINDOW.match(key)):
            found.take(name, value, key)
        elif not OF_THE_WINDOW.match(key):
            found.left_out[key] = f"{value!r}"[:60]
    if tables.get("optimizer_args"):
        found.settings["optimizer_args"] = str(tables["optimizer_args"]).split()
    warm_up = tables.get("lr_warmup")
    if warm_up and not tables.get("lr_warmup_steps"):
        found.settings["lr_warmup_steps"] = min(0.99, float(warm_up) / 100)
    if found.settings.get("max_train_steps") and "max_train_epochs" in found.settings:
        found.settings.pop("max_train_epochs")
        found.notices.append("max_train_steps counts, not epoch, as in sd-scripts.")
    return found
