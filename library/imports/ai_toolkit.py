"""The YAML of ai-toolkit: one job with one process, its network, datasets, training and samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from library.imports.imported import Imported, arguments, dtype, prompt_line, quantization, saved_dtype

OPTIMIZERS = {"adamw": "AdamW", "adamw8bit": "AdamW8bit", "adam8bit": "AdamW8bit", "prodigy": "Prodigy", "lion": "Lion",
              "adafactor": "AdaFactor"}  # fmt: skip
DENSITIES = {"sigmoid": "logit_normal", "linear": "uniform"}
NETWORK = {"linear": "network_dim", "linear_alpha": "network_alpha", "dropout": "network_dropout", "type": None}
SAVE = {
    "dtype": ("save_precision", saved_dtype),
    "save_every": "save_every_n_steps",
    "max_step_saves_to_keep": None,
}
MODEL = {"name_or_path": "pretrained_model_name_or_path", "is_v3": None, "arch": None, "quantize": None, "qtype": None}
LOGGING = {"project_name": "log_tracker_name", "run_name": "wandb_run_name", "use_wandb": None, "log_every": None}
EMA_DECAY = 0.999
"""ai-toolkit's, where a job does not say."""
TRAIN = {
    "batch_size": "train_batch_size",
    "steps": "max_train_steps",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_accumulation": "gradient_accumulation_steps",
    "gradient_checkpointing": "gradient_checkpointing",
    "lr": "learning_rate",
    "optimizer": ("optimizer_type", lambda value: OPTIMIZERS.get(str(value).lower(), value)),
    "optimizer_params": ("optimizer_args", lambda value: arguments(value or {})),
    "lr_scheduler": "lr_scheduler",
    "dtype": ("mixed_precision", dtype),
    "timestep_type": ("weighting_scheme", lambda value: DENSITIES.get(value)),
    "max_grad_norm": "max_grad_norm",
    "ema_config": None,
    "train_unet": None,
    "noise_scheduler": None,
    "diff_output_preservation_class": None,
}
SAMPLE = {
    "sample_every": "sample_every_n_steps",
    "guidance_scale": "guidance_scale",
    "sample_steps": "sample_steps",
    "prompts": None,
    "samples": None,
    "sampler": None,
    "neg": None,
    "width": None,
    "height": None,
    "seed": None,
}
DATASET = {
    "num_repeats": "num_repeats",
    "caption_dropout_rate": "caption_dropout_rate",
    "shuffle_tokens": "shuffle_caption",
    "keep_tokens": "keep_tokens",
    "token_dropout_rate": "caption_tag_dropout_rate",
    "flip_x": "flip_aug",
    "random_crop": "random_crop",
    "is_reg": "is_reg",
    "default_caption": "class_tokens",
    "alpha_mask": "alpha_mask",
    "mask_path": "conditioning_data_dir",
}
NEEDLESS = {"cache_latents", "cache_latents_to_disk", "folder_path", "caption_ext", "resolution", "buckets", "type"}


def read(tables: Mapping[str, Any]) -> Imported:
    """The first process of a job."""
    config = tables.get("config", {})
    process = (config.get("process") or [{}])[0]
    found = Imported("ai-toolkit")
    if config.get("name"):
        found.take("output_name", config["name"], "config.name")
    sections = {"network": NETWORK, "save": SAVE, "model": MODEL, "train": TRAIN, "sample": SAMPLE, "logging": LOGGING}
    for section, names in sections.items():
        found.take_all(process.get(section) or {}, names, f"{section}.")
    top = {"training_folder": "output_dir", "trigger_word": None, "device": "device", "type": None, "datasets": None}
    found.take_all({key: process[key] for key in process if key not in sections}, top, "")
    if (process.get("network") or {}).get("type", "lora") != "lora":
        found.left_out["network.type"] = "a plain LoRA is trained"
    train = process.get("train") or {}
    found.concept = _concept(process.get("trigger_word"), train.get("diff_output_preservation_class"))
    if train.get("diff_output_preservation"):
        found.left_out.pop("train.diff_output_preservation", None)
        found.notices.append("diff_output_preservation: anchor_weight does the same here, and is on.")
    _take_more(found, process)
    found.prompts = _prompts(process.get("sample") or {})
    for number, dataset in enumerate(process.get("datasets") or []):
        _take_dataset(found, dataset, f"datasets[{number}].")
    return found


def _concept(trigger: str | None, class_word: str | None) -> dict[str, Any]:
    return {key: value for key, value in (("trigger", trigger), ("class_word", class_word)) if value}


def _take_more(found: Imported, process: Mapping[str, Any]) -> None:
    """What takes two of their settings to say."""
    save, model, average = (
        process.get("save") or {},
        process.get("model") or {},
        (process.get("train") or {}).get("ema_config") or {},
    )
    if average.get("use_ema"):
        found.take("ema_decay", average.get("ema_decay", EMA_DECAY), "train.ema_config.ema_decay")
    if save.get("max_step_saves_to_keep") and save.get("save_every"):
        last = (int(save["max_step_saves_to_keep"]) - 1) * int(save["save_every"])
        found.take("save_last_n_steps", last, "save.max_step_saves_to_keep")
    if model.get("quantize"):
        kind = quantization(model.get("qtype", "qfloat8"))
        if kind:
            found.take("base_quantization", kind, "model.qtype")
        else:
            found.left_out["model.qtype"] = f"{model['qtype']}: set base_quantization"
    if (process.get("logging") or {}).get("use_wandb"):
        found.take("log_with", "all", "logging.use_wandb")


def _prompts(sample: Mapping[str, Any]) -> list[str]:
    """Lines of a prompt file; what holds for all of their prompts stands in each."""
    shared = {"w": sample.get("width"), "h": sample.get("height"), "d": sample.get("seed"), "n": sample.get("neg")}
    entries = [one if isinstance(one, Mapping) else {"prompt": one} for one in sample.get("samples") or []]
    entries += [{"prompt": one} for one in sample.get("prompts") or []]
    lines = []
    for entry in entries:
        own = {"w": entry.get("width"), "h": entry.get("height"), "d": entry.get("seed"), "n": entry.get("neg")}
        options = {**shared, **{name: value for name, value in own.items() if value is not None}}
        lines.append(prompt_line(str(entry.get("prompt", "")).replace("[trigger]", "[V]"), options))
    return lines


def _take_dataset(found: Imported, dataset: Mapping[str, Any], at: str) -> None:
    subset = {"image_dir": str(dataset.get("folder_path", ""))}
    if dataset.get("caption_ext"):
        subset["caption_extension"] = f".{str(dataset['caption_ext']).lstrip('.')}"
    for key, value in dataset.items():
        if key in DATASET and value not in (None, False, ""):
            subset[DATASET[key]] = value.replace("[trigger]", "[V]") if isinstance(value, str) else value
        elif key not in NEEDLESS and key not in DATASET and value not in (None, False, "", 0):
            found.left_out[f"{at}{key}"] = f"{value!r}"[:60]
    if "conditioning_data_dir" in subset:
        found.settings["masked_loss"] = True
    sizes = dataset.get("resolution", 512)
    for size in sizes if isinstance(sizes, list) else [sizes]:
        found.datasets.append({"resolution": size, "enable_bucket": True, "subsets": [subset]})
