"""The JSON of OneTrainer: a training configuration, and its concepts in it or in a file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from library.errors import ConfigError
from library.imports.imported import Imported, dtype, folder_and_name, prompt_line, quantization, saved_dtype

OPTIMIZERS = {"ADAMW": "AdamW", "ADAMW_8BIT": "AdamW8bit", "PRODIGY": "Prodigy", "LION": "Lion",
              "LION_8BIT": "Lion8bit", "ADAFACTOR": "AdaFactor"}  # fmt: skip
SCHEDULES = {
    "CONSTANT": "constant",
    "LINEAR": "linear",
    "COSINE": "cosine",
    "COSINE_WITH_RESTARTS": "cosine_with_restarts",
    "COSINE_WITH_HARD_RESTARTS": "cosine_with_restarts",
}
DENSITIES = {"LOGIT_NORMAL": "logit_normal", "UNIFORM": "uniform"}
SETTINGS = {
    "base_model_name": "pretrained_model_name_or_path",
    "learning_rate": "learning_rate",
    "learning_rate_scheduler": ("lr_scheduler", lambda value: SCHEDULES.get(value)),
    "learning_rate_warmup_steps": "lr_warmup_steps",
    "learning_rate_cycles": ("lr_scheduler_num_cycles", lambda value: int(float(value))),
    "epochs": "max_train_epochs",
    "batch_size": "train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_checkpointing": ("gradient_checkpointing", lambda value: value not in ("OFF", False)),
    "lora_rank": "network_dim",
    "lora_alpha": "network_alpha",
    "dropout_probability": "network_dropout",
    "clip_grad_norm": "max_grad_norm",
    "seed": "seed",
    "train_dtype": ("mixed_precision", dtype),
    "output_dtype": ("save_precision", saved_dtype),
    "timestep_distribution": ("weighting_scheme", lambda value: DENSITIES.get(value)),
    "timestep_shift": "training_shift",
    "min_noising_strength": ("min_timestep", lambda value: round(float(value) * 1000)),
    "max_noising_strength": ("max_timestep", lambda value: round(float(value) * 1000)),
    "cache_dir": "cache_dir",
    "lora_model_name": ("network_weights", lambda value: value or None),
    **dict.fromkeys(
        ["output_model_destination", "optimizer", "concepts", "concept_file_name", "resolution", "training_method",
         "model_type", "peft_type", "latent_caching", "__version", "aspect_ratio_bucketing", "workspace_dir",
         "output_model_format", "samples", "sample_definition_file_name", "train_device", "temp_device",
         "ema", "ema_decay", "ema_update_step_interval", "save_every", "save_every_unit", "sample_after",
         "sample_after_unit", "backup_after", "backup_after_unit", "rolling_backup", "rolling_backup_count",
         "backup_before_save", "tensorboard", "tensorboard_expose", "tensorboard_port", "weight_dtype"]
    ),
}  # fmt: skip
EVERY = {
    ("save_every", "EPOCH"): "save_every_n_epochs",
    ("save_every", "STEP"): "save_every_n_steps",
    ("sample_after", "EPOCH"): "sample_every_n_epochs",
    ("sample_after", "STEP"): "sample_every_n_steps",
    ("sample_after", "MINUTE"): "sample_every_n_minutes",
}
"""How often, by their setting and its unit."""
EMA_DECAY = 0.999
"""OneTrainer's, where a configuration does not say."""
STANDARD, PRIOR, VALIDATION = "STANDARD", "PRIOR_PREDICTION", "VALIDATION"


def read(tables: Mapping[str, Any], folder: Path) -> Imported:
    """A training configuration.

    Args:
        folder: where the file lies, which `concept_file_name` counts from if it is not found from here.
    """
    found = Imported("OneTrainer")
    found.take_all(tables, SETTINGS, "")
    if tables.get("training_method", "LORA") != "LORA":
        found.left_out["training_method"] = f"{tables['training_method']}: a LoRA is trained"
    if tables.get("peft_type", "LORA") != "LORA":
        found.left_out["peft_type"] = f"{tables['peft_type']}: a plain LoRA is trained"
    if tables.get("output_model_destination"):
        found.settings["output_dir"], found.settings["output_name"] = folder_and_name(
            tables["output_model_destination"]
        )
    optimizer = tables.get("optimizer") or {}
    name = optimizer.get("optimizer") if isinstance(optimizer, Mapping) else optimizer
    if name in OPTIMIZERS:
        found.take("optimizer_type", OPTIMIZERS[name], "optimizer")
    elif name:
        found.left_out["optimizer"] = str(name)
    if isinstance(optimizer, Mapping) and optimizer.get("weight_decay") is not None:
        found.settings["optimizer_args"] = [f"weight_decay={optimizer['weight_decay']}"]
    _take_more(found, tables)
    found.prompts = _prompts(_listed(tables, folder, "samples", "sample_definition_file_name", needed=False))
    subsets = [
        subset
        for concept in _listed(tables, folder, "concepts", "concept_file_name", needed=True)
        if (subset := _subset(found, concept))
    ]
    for size in str(tables.get("resolution", "512")).split(","):
        width, _, height = size.strip().partition("x")
        resolution = [int(width), int(height)] if height else int(width)
        bucket = bool(tables.get("aspect_ratio_bucketing", True))
        found.datasets.append({"resolution": resolution, "enable_bucket": bucket, "subsets": subsets})
    return found


def _take_more(found: Imported, tables: Mapping[str, Any]) -> None:
    """What takes two of their settings to say."""
    for name in ("save_every", "sample_after"):
        unit = tables.get(f"{name}_unit", "NEVER")
        if (name, unit) in EVERY:
            found.take(EVERY[name, unit], tables.get(name), name)
        elif unit != "NEVER" and tables.get(name):
            found.left_out[name] = f"every {tables[name]} in units of {unit}"
    if tables.get("ema", "OFF") != "OFF":
        found.take("ema_decay", tables.get("ema_decay", EMA_DECAY), "ema_decay")
    own = (tables.get("transformer") or {}).get("weight_dtype", "NONE")
    kind = quantization(tables.get("weight_dtype") if own == "NONE" else own)
    if kind:
        found.take("base_quantization", kind, "weight_dtype")


def _listed(tables: Mapping[str, Any], folder: Path, key: str, file_key: str, needed: bool) -> list[Mapping[str, Any]]:
    """What stands in the configuration itself, or in a file that it names.

    Args:
        needed: the file has to be there.
    """
    if isinstance(tables.get(key), list):
        return tables[key]
    name = tables.get(file_key)
    if not name:
        return []
    places = [Path(name), folder / name, folder / Path(name).name]
    file = next((place for place in places if place.is_file()), None)
    if file is None and needed:
        raise ConfigError(f"{file_key}: there is no file {name}.", f"Put it beside the configuration, in {folder}.")
    return json.loads(file.read_text(encoding="utf-8")) if file else []


def _prompts(samples: list[Mapping[str, Any]]) -> list[str]:
    """Lines of a prompt file."""
    lines = []
    for one in samples:
        if one.get("enabled", True) and one.get("prompt"):
            seed = None if one.get("random_seed") else one.get("seed")
            options = {"w": one.get("width"), "h": one.get("height"), "d": seed, "s": one.get("diffusion_steps")}
            options |= {"l": one.get("cfg_scale"), "n": one.get("negative_prompt")}
            lines.append(prompt_line(one["prompt"], options))
    return lines


def _subset(found: Imported, concept: Mapping[str, Any]) -> dict[str, Any] | None:
    at, kind = f"concept {concept.get('name') or concept.get('path')}", concept.get("type", STANDARD)
    if not concept.get("enabled", True):
        return None
    if kind == VALIDATION:
        found.left_out[at] = "validation pictures: set validation_split instead"
        return None
    image, text = concept.get("image") or {}, concept.get("text") or {}
    subset: dict[str, Any] = {"image_dir": str(concept.get("path", ""))}
    if concept.get("balancing_strategy", "REPEATS") == "REPEATS" and concept.get("balancing"):
        subset["num_repeats"] = max(1, round(float(concept["balancing"])))
    if kind == PRIOR:
        subset |= {"is_reg": True, "diff_output_preservation": True}
    for theirs, ours, table in (
        ("enable_random_flip", "flip_aug", image),
        ("enable_crop_jitter", "random_crop", image),
        ("enable_tag_shuffling", "shuffle_caption", text),
    ):
        if table.get(theirs):
            subset[ours] = True
    if subset.get("shuffle_caption"):
        subset |= {"caption_separator": text.get("tag_delimiter", ","), "keep_tokens": text.get("keep_tags_count", 0)}
    if text.get("prompt_source") == "concept" and text.get("prompt_path"):
        found.left_out[f"{at}, prompts"] = f"{text['prompt_path']}: write its lines as caption_templates"
    if text.get("prompt_source") == "filename":
        found.left_out[f"{at}, prompts"] = "names of files: write caption files"
    if concept.get("include_subdirectories"):
        found.left_out[f"{at}, include_subdirectories"] = "name each folder in a subset of its own"
    return subset
