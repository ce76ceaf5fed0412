"""The JSON of OneTrainer: a training configuration, and its concepts in it or in a file beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from library.errors import ConfigError
from library.importers.imported import (
    Imported,
    arguments,
    dtype,
    folder_and_name,
    prompt_line,
    quantization,
    saved_dtype,
)
from library.importers.reading import number, read_data, shown, table, tables

OPTIMIZERS = {"ADAMW": "AdamW", "ADAMW_8BIT": "AdamW8bit", "PRODIGY": "Prodigy", "LION": "Lion",
              "LION_8BIT": "Lion8bit", "ADAFACTOR": "AdaFactor"}  # fmt: skip
ARGUMENTS = {
    "ADAMW": ["beta1", "beta2", "eps", "weight_decay", "amsgrad"],
    "ADAMW_8BIT": ["beta1", "beta2", "eps", "weight_decay"],
    "PRODIGY": ["beta1", "beta2", "beta3", "eps", "weight_decay", "decouple", "use_bias_correction",
                "safeguard_warmup", "d0", "d_coef", "growth_rate", "slice_p"],
    "LION": ["beta1", "beta2", "weight_decay"],
    "LION_8BIT": ["beta1", "beta2", "weight_decay"],
    "ADAFACTOR": ["beta1", "eps", "eps2", "clip_threshold", "decay_rate", "weight_decay", "scale_parameter",
                  "relative_step", "warmup_init"],
}  # fmt: skip
"""Of the arguments that it keeps for all optimizers at once, those that it hands to each of them."""
OFF = ("scale_parameter", "relative_step", "warmup_init")
"""Arguments of Adafactor that OneTrainer turns off, and the package does not."""
SCHEDULES = {
    "CONSTANT": "constant",
    "LINEAR": "linear",
    "COSINE": "cosine",
    "COSINE_WITH_RESTARTS": "cosine_with_restarts",
    "COSINE_WITH_HARD_RESTARTS": "cosine_with_restarts",
}
DENSITIES = {"LOGIT_NORMAL": "logit_normal", "UNIFORM": "uniform"}
WARM = "constant_with_warmup"
DEFAULTS = {
    "learning_rate": 3e-6,
    "learning_rate_warmup_steps": 200,
    "epochs": 100,
    "batch_size": 1,
    "lora_rank": 16,
    "lora_alpha": 1.0,
    "train_dtype": "FLOAT_16",
    "output_dtype": "FLOAT_32",
    "timestep_distribution": "UNIFORM",
    "resolution": "512",
}
"""OneTrainer's defaults that differ from ours."""
PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
SETTINGS = {
    "base_model_name": "pretrained_model_name_or_path",
    "learning_rate": "learning_rate",
    "learning_rate_scheduler": ("lr_scheduler", lambda value: SCHEDULES.get(value)),
    "learning_rate_warmup_steps": "lr_warmup_steps",
    "learning_rate_cycles": ("lr_scheduler_num_cycles", lambda value: max(1, int(float(value)))),
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
         "backup_before_save", "tensorboard", "tensorboard_expose", "tensorboard_port", "weight_dtype",
         "transformer", "unet", "prior", "vae", "effnet_encoder", "decoder", "decoder_text_encoder", "decoder_vqgan",
         "unconditional_transformer", "quantization", "optimizer_defaults", "embedding", "embeddings",
         "additional_embeddings", "cloud", "secrets", "debug_dir", "huggingface_cache_dir", *PARTS]
    ),
}  # fmt: skip
USUAL = {
    "validate_after": 1, "validate_after_unit": "EPOCH", "include_train_config": "NONE",
    "gradient_reduce_precision": "FLOAT_32_STOCHASTIC", "fused_gradient_reduce": True, "async_gradient_reduce": True,
    "async_gradient_reduce_buffer": 100, "async_offloading": True, "enable_async_offloading": True,
    "enable_activation_offloading": True, "clear_cache_before_training": True, "dataloader_threads": 2,
    "fallback_train_dtype": "BFLOAT_16", "enable_autocast_cache": True, "frames": "25", "attention_mechanism": "SDP",
    "mse_strength": 1.0, "huber_delta": 1.0, "vb_loss_strength": 1.0, "loss_weight_fn": "CONSTANT",
    "loss_weight_strength": 5.0, "loss_scaler": "NONE", "learning_rate_scaler": "NONE",
    "text_encoder_sequence_length": 512, "text_encoder_2_sequence_length": 77, "unmasked_probability": 0.1,
    "unmasked_weight": 0.1, "layer_filter_preset": "full", "embedding_weight_dtype": "FLOAT_32",
    "lora_weight_dtype": "FLOAT_32", "lora_decompose_norm_epsilon": True, "bundle_additional_embeddings": True,
    "oft_block_size": 32, "lokr_dim": 16, "lokr_decompose_factor": -1, "lokr_dora_on_output": True,
    "lokr_vec_trick": True, "sample_image_format": "JPG", "sample_video_format": "MP4", "sample_audio_format": "MP3",
    "samples_to_tensorboard": True, "non_ema_sampling": True,
}  # fmt: skip
"""Keys that every saved configuration has, and keys without a counterpart here."""
OURS = ("STABLE_DIFFUSION_3", "STABLE_DIFFUSION_35")
EVERY = {
    ("save_every", "EPOCH"): "save_every_n_epochs",
    ("save_every", "STEP"): "save_every_n_steps",
    ("sample_after", "EPOCH"): "sample_every_n_epochs",
    ("sample_after", "STEP"): "sample_every_n_steps",
    ("sample_after", "MINUTE"): "sample_every_n_minutes",
}
"""How often, by their setting and its unit."""
EMA_DECAY = 0.999
"""OneTrainer's default."""
STANDARD, PRIOR, VALIDATION = "STANDARD", "PRIOR_PREDICTION", "VALIDATION"


def read(data: Mapping[str, Any], folder: Path) -> Imported:
    """A training configuration.

    Args:
        folder: where the file lies, which `concept_file_name` counts from if it is not found from here.
    """
    found = Imported("OneTrainer")
    found.assumed = {key: value for key, value in DEFAULTS.items() if data.get(key) is None}
    data = {**data, **found.assumed}
    known = {key: value for key, value in data.items() if key not in USUAL or value != USUAL[key]}
    found.take_all(known, SETTINGS, "")
    if data.get("training_method", "LORA") != "LORA":
        found.left_out["training_method"] = f"{shown(data['training_method'])}: trained as a LoRA"
    if data.get("peft_type", "LORA") != "LORA":
        found.left_out["peft_type"] = f"{shown(data['peft_type'])}: trained as a plain LoRA"
    if data.get("output_model_destination"):
        folder_of, name = folder_and_name(data["output_model_destination"])
        found.take("output_dir", folder_of, "output_model_destination")
        found.take("output_name", name, "output_model_destination")
    _take_optimizer(found, data.get("optimizer"))
    _take_more(found, data)
    found.prompts = _prompts(_listed(data, folder, "samples", "sample_definition_file_name", needed=False))
    concepts = _listed(data, folder, "concepts", "concept_file_name", needed=True)
    subsets = [subset for concept in concepts if (subset := _subset(found, concept))]
    bucket = bool(data.get("aspect_ratio_bucketing", True))
    for size in _resolutions(found, data["resolution"]):
        found.datasets.append({"resolution": size, "enable_bucket": bucket, "subsets": subsets})
    if data.get("model_type", OURS[0]) not in OURS:
        found.is_for(str(data["model_type"]))
    return found


def _resolutions(found: Imported, value: Any) -> list[Any]:
    """Sizes of the pictures: 512 and [768, 512] of "512,768x512"."""
    sizes = [size.strip().split("x") for size in str(value).split(",")]
    fitted = [found.fitted("resolution", size if len(size) > 1 else size[0], "resolution") for size in sizes]
    return [size for size in fitted if size] or [512]


def _take_optimizer(found: Imported, given: Any) -> None:
    """Its name, and of its numbers those that are OneTrainer's for it."""
    optimizer = given if isinstance(given, Mapping) else {"optimizer": given}
    name = str(optimizer.get("optimizer") or "ADAMW")
    if name not in OPTIMIZERS:
        found.left_out["optimizer"] = name
        return
    found.take("optimizer_type", OPTIMIZERS[name], "optimizer")
    numbers = {key: number(value) if isinstance(value, str) else value for key, value in optimizer.items()}
    off = dict.fromkeys(OFF, False) if name == "ADAFACTOR" else {}
    given = off | {key: numbers[key] for key in ARGUMENTS[name] if isinstance(numbers.get(key), int | float)}
    given = {key: value for key, value in given.items() if value is not False or key in off}
    for pair, together in ((("beta1", "beta2"), "betas"), (("eps", "eps2"), "eps")):
        if given.keys() >= set(pair):
            given[together] = tuple(given.pop(one) for one in pair)
    for lone in [one for one in ("beta1", "beta2", "eps2") if one in given and (one, name) != ("beta1", "ADAFACTOR")]:
        found.leave(f"optimizer.{lone}", given.pop(lone))
    if given:
        found.take("optimizer_args", arguments(given), "optimizer")


def _take_more(found: Imported, data: Mapping[str, Any]) -> None:
    """Settings that follow from two of theirs."""
    for name in ("save_every", "sample_after"):
        unit = str(data.get(f"{name}_unit", "NEVER"))
        if (name, unit) in EVERY:
            found.take(EVERY[name, unit], data.get(name), name)
        elif unit != "NEVER" and data.get(name):
            found.left_out[name] = f"every {shown(data[name])} in units of {unit}"
    if data.get("ema", "OFF") != "OFF":
        found.take("ema_decay", data.get("ema_decay", EMA_DECAY), "ema_decay")
    if data.get("learning_rate_scheduler", "CONSTANT") == "CONSTANT" and found.settings.get("lr_warmup_steps"):
        found.settings["lr_scheduler"] = WARM  # "constant" is one without
    own = table(data.get("transformer"), "transformer")
    kind = quantization(data.get("weight_dtype") if own.get("weight_dtype", "NONE") == "NONE" else own["weight_dtype"])
    if kind:
        found.take("base_quantization", kind, "weight_dtype")
    if own.get("learning_rate") is not None:
        found.over("learning_rate", own["learning_rate"], "transformer.learning_rate", "learning_rate")
    if "gradient_checkpointing" in own:
        found.take("gradient_checkpointing", own["gradient_checkpointing"], "transformer.gradient_checkpointing")
    for part in PARTS:
        if table(data.get(part), part).get("train"):
            found.left_out[f"{part}.train"] = "the text encoders are not trained"


def _listed(data: Mapping[str, Any], folder: Path, key: str, file_key: str, needed: bool) -> list[dict[str, Any]]:
    """What is in the configuration itself, or in a file that it names.

    Args:
        needed: the file has to be there.
    """
    if data.get(key) is not None:
        return tables(data[key], key)
    name = data.get(file_key)
    if not name:
        return []
    places = [Path(str(name)), folder / str(name), folder / Path(str(name)).name]
    file = next((place for place in places if os.path.isfile(place)), None)
    if file is None and needed:
        raise ConfigError(
            f"{file_key}: the file {shown(name)} doesn't exist.", f"Put it next to the configuration, in {folder}."
        )
    return tables(read_data(file), str(file)) if file else []


def _prompts(samples: list[dict[str, Any]]) -> list[str]:
    """Lines of a prompt file."""
    lines = []
    for one in samples:
        if one.get("enabled", True) and str(one.get("prompt") or "").strip():
            seed = None if one.get("random_seed") else one.get("seed")
            options = {"w": one.get("width"), "h": one.get("height"), "d": seed, "s": one.get("diffusion_steps")}
            options |= {"l": one.get("cfg_scale"), "n": one.get("negative_prompt")}
            lines.append(prompt_line(one["prompt"], options))
    return lines


def _subset(found: Imported, concept: dict[str, Any]) -> dict[str, Any] | None:
    at, kind = f"concept {concept.get('name') or concept.get('path')}"[:60], concept.get("type", STANDARD)
    if not concept.get("enabled", True):
        return None
    if kind == VALIDATION:
        found.left_out[at] = "validation images: set validation_split instead"
        return None
    image, text = table(concept.get("image"), f"{at}, image"), table(concept.get("text"), f"{at}, text")
    subset: dict[str, Any] = {"image_dir": str(concept.get("path") or "")}
    if kind == PRIOR:
        subset |= {"is_reg": True, "diff_output_preservation": True}
    for theirs, ours, where, default in (
        ("enable_random_flip", "flip_aug", image, False),
        ("enable_crop_jitter", "random_crop", image, True),
        ("enable_tag_shuffling", "shuffle_caption", text, False),
    ):
        if where.get(theirs, default):
            subset[ours] = True
    if concept.get("balancing_strategy", "REPEATS") == "REPEATS":
        _take_repeats(found, concept.get("balancing"), subset, at)
    else:
        found.left_out[f"{at}, balancing"] = f"{shown(concept.get('balancing'))} samples: set num_repeats"
    if subset.get("shuffle_caption"):
        subset["caption_separator"] = str(text.get("tag_delimiter") or ",")
        kept = found.fitted("keep_tokens", text.get("keep_tags_count", 1), f"{at}, keep_tags_count")
        subset["keep_tokens"] = kept or 0
    if text.get("prompt_source") == "concept" and text.get("prompt_path"):
        found.left_out[f"{at}, prompts"] = f"{shown(text['prompt_path'])}: write its lines as caption_templates"
    if text.get("prompt_source") == "filename":
        found.left_out[f"{at}, prompts"] = "file names as captions: write caption files"
    if concept.get("include_subdirectories"):
        found.left_out[f"{at}, include_subdirectories"] = "add a subset for each folder"
    return subset


def _take_repeats(found: Imported, balancing: Any, subset: dict[str, Any], at: str) -> None:
    repeats = number(balancing) if isinstance(balancing, str) else balancing
    if isinstance(repeats, int | float) and repeats > 0:
        subset["num_repeats"] = max(1, round(repeats))
    else:
        found.leave(f"{at}, balancing", balancing)
