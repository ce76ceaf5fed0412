"""The YAML of ai-toolkit: one job with one process, its network, datasets, training and samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from library.errors import ConfigError
from library.importers.imported import (
    EMPTY,
    Imported,
    Name,
    arguments,
    dtype,
    fitting,
    prompt_line,
    quantization,
    saved_dtype,
)
from library.importers.reading import shown, table, tables
from library.prompts import with_our_placeholder

OPTIMIZERS = {
    "adam": "torch.optim.Adam",
    "adamw": "AdamW",
    "adamw8bit": "AdamW8bit",
    "adam8bit": "AdamW8bit",
    "prodigy": "Prodigy",
    "lion": "Lion",
    "lion8bit": "Lion8bit",
    "adafactor": "AdaFactor",
}
ALWAYS = {
    "eps": ("adam", "adamw", "adamw8bit", "adam8bit", "prodigy"),
    "scale_parameter": ("adafactor",),
    "relative_step": ("adafactor",),
    "warmup_init": ("adafactor",),
}
"""Arguments that it hands to these optimizers without a setting: eps = 1e-6, and False for the others."""
OWN_RATE, LEAST_RATE = "prodigy", 0.1
"""An optimizer whose learning rate it takes for 1 below this one."""
FAMILIES = {
    "is_v3": None,
    "is_flux": "Flux",
    "is_xl": "SDXL",
    "is_v2": "Stable Diffusion 2",
    "is_pixart": "PixArt",
    "is_pixart_sigma": "PixArt",
    "is_auraflow": "AuraFlow",
    "is_lumina2": "Lumina Image 2",
    "is_ssd": "SSD",
    "is_vega": "Vega",
}
"""The keys that name the model."""
DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "network": {"linear": 4, "linear_alpha": 1.0},
    "save": {"save_every": 1000, "max_step_saves_to_keep": 5},
    "train": {"batch_size": 1, "steps": 1000, "lr": 1e-6, "dtype": "fp32"},
    "sample": {"guidance_scale": 7, "sample_steps": 20, "width": 512, "height": 512},
}
"""Its defaults that differ from ours."""
DENSITIES = {"sigmoid": "logit_normal", "linear": "uniform"}
NETWORK = {
    "linear": "network_dim",
    "linear_alpha": "network_alpha",
    "dropout": "network_dropout",
    "pretrained_lora_path": ("network_weights", lambda value: value or None),
    "type": None,
    "rank": None,
    "alpha": None,
    "transformer_only": None,
}
SAVE = {
    "dtype": ("save_precision", saved_dtype),
    "save_every": "save_every_n_steps",
    "max_step_saves_to_keep": None,
}
MODEL = {
    "name_or_path": "pretrained_model_name_or_path",
    "vae_path": "vae",
    **dict.fromkeys(["arch", "quantize", "quantize_te", "qtype", "qtype_te", "low_vram", "dtype", *FAMILIES]),
}
SD3 = ("sd3", "sd35")
"""Names of the model of this trainer among the values of `model.arch`."""
LOGGING = {"project_name": "log_tracker_name", "run_name": "wandb_run_name", "use_wandb": None, "log_every": None}
CAPTIONS_WRITE = "[trigger]"
"""What it replaces with the trigger in caption files."""
EMA_DECAY = 0.999
"""ai-toolkit's default."""
TRAIN = {
    "batch_size": "train_batch_size",
    "steps": "max_train_steps",
    "gradient_accumulation_steps": None,
    "gradient_accumulation": None,
    "gradient_checkpointing": "gradient_checkpointing",
    "lr": "learning_rate",
    "optimizer": ("optimizer_type", lambda value: OPTIMIZERS.get(str(value).lower())),
    "unet_lr": None,
    "text_encoder_lr": None,
    "train_text_encoder": None,
    "optimizer_params": None,
    "lr_scheduler": "lr_scheduler",
    "lr_scheduler_params": None,
    "dtype": ("mixed_precision", dtype),
    "timestep_type": ("weighting_scheme", lambda value: DENSITIES.get(value)),
    "max_grad_norm": "max_grad_norm",
    "ema_config": None,
    "train_unet": None,
    "cache_text_embeddings": None,
    "unload_text_encoder": None,
    "skip_first_sample": None,
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
    "walk_seed": None,
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
NEEDLESS = {
    "cache_latents",
    "cache_latents_to_disk",
    "folder_path",
    "dataset_path",
    "caption_ext",
    "resolution",
    "buckets",
    "type",
}


def read(data: Mapping[str, Any]) -> Imported:
    """The first process of a job."""
    config = table(data.get("config"), "config")
    process = next(iter(tables(config.get("process"), "config.process")), {})
    if not process.get("train"):
        raise ConfigError("config.process has no train, so the job trains nothing.", "Import a job that trains a LoRA.")
    found = Imported("ai-toolkit")
    if config.get("name"):
        found.take("output_name", config["name"], "config.name")
    named: dict[str, Mapping[str, Name]] = {
        "network": NETWORK,
        "save": SAVE,
        "model": MODEL,
        "train": TRAIN,
        "sample": SAMPLE,
        "logging": LOGGING,
    }
    sections = {name: table(process.get(name), name) for name in named}
    _fill(found, sections)
    for name, names in named.items():
        found.take_all(sections[name], names, f"{name}.")
    top = {"training_folder": "output_dir", "trigger_word": None, "device": "device", "type": None, "datasets": None}
    found.take_all({key: process[key] for key in process if key not in sections}, top, "")
    datasets = tables(process.get("datasets"), "datasets")
    found.concept = _concept(process, sections["train"], datasets)
    _take_network(found, sections["network"])
    _take_training(found, sections["train"])
    _take_more(found, sections)
    found.prompts = _prompts(found, sections["sample"], str(config.get("name") or ""))
    for number, dataset in enumerate(datasets):
        _take_dataset(found, dataset, f"datasets[{number}].")
    model = _model_of(sections["model"])
    if model:
        found.is_for(model)
    return found


def _fill(found: Imported, sections: dict[str, dict[str, Any]]) -> None:
    """Adds ai-toolkit's defaults to the sections."""
    network, sample = sections["network"], sections["sample"]
    said = {
        "linear": network.get("rank") if network.get("rank") is not None else network.get("linear"),
        "linear_alpha": network.get("linear_alpha", network.get("alpha")),
    }
    if said["linear"] != network.get("linear") and network.get("linear") is not None:
        found.notices.append(
            f"network.rank is used, as in ai-toolkit; network.linear {network['linear']!r} is ignored."
        )
    network |= {name: value for name, value in said.items() if value is not None}
    for name, defaults in DEFAULTS.items():
        if name != "sample" or sample:
            unsaid = {key: value for key, value in defaults.items() if sections[name].get(key) is None}
            sections[name] |= unsaid
            found.assumed |= {f"{name}.{key}": value for key, value in unsaid.items()}


def _concept(process: Mapping[str, Any], train: Mapping[str, Any], datasets: list[dict[str, Any]]) -> dict[str, Any]:
    triggers = [process.get("trigger_word"), *(dataset.get("trigger_word") for dataset in datasets)]
    trigger, class_word = next((one for one in triggers if one), None), train.get("diff_output_preservation_class")
    found = (("trigger", trigger), ("class_word", class_word), ("placeholder", CAPTIONS_WRITE))
    return {key: str(value) for key, value in found if value}


def _model_of(model: Mapping[str, Any]) -> str | None:
    """A job's model, if this trainer can't train it."""
    arch = model.get("arch")
    if arch:
        return None if str(arch).lower().startswith(SD3) else str(arch)
    return next((name for key, name in FAMILIES.items() if name and model.get(key)), None)


def _take_network(found: Imported, network: Mapping[str, Any]) -> None:
    if network.get("type", "lora") != "lora":
        found.left_out["network.type"] = f"{shown(network['type'])}: trained as a plain LoRA"


def _take_training(found: Imported, train: Mapping[str, Any]) -> None:
    optimizer, params = str(train.get("optimizer") or "adamw").lower(), train.get("optimizer_params")
    given = table(params, "train.optimizer_params")
    unsaid = {name: 1e-6 if name == "eps" else False for name, those in ALWAYS.items()
              if optimizer in those and name not in given}  # fmt: skip
    if given or unsaid:
        found.take("optimizer_args", arguments({**given, **unsaid}), "train.optimizer_params")
        found.assumed |= {f"train.optimizer_params.{name}": value for name, value in unsaid.items()}
    for name in ("gradient_accumulation_steps", "gradient_accumulation"):
        if train.get(name) not in (None, 1):  # only one of the two may be above 1
            found.take("gradient_accumulation_steps", train[name], f"train.{name}")
    schedule = table(train.get("lr_scheduler_params"), "train.lr_scheduler_params")
    for name, value in schedule.items():
        if name == "num_warmup_steps":
            found.take("lr_warmup_steps", value, "train.lr_scheduler_params.num_warmup_steps")
        elif name == "num_cycles":
            found.take("lr_scheduler_num_cycles", value, "train.lr_scheduler_params.num_cycles")
        else:
            found.leave(f"train.lr_scheduler_params.{name}", value)
    if train.get("unet_lr") is not None:
        found.over("learning_rate", train["unet_lr"], "train.unet_lr", "train.lr")
    if optimizer.startswith(OWN_RATE) and found.settings.get("learning_rate", 1) < LEAST_RATE:
        rate = found.settings["learning_rate"]
        found.take("learning_rate", 1.0, "train.lr")
        found.notices.append(f"train.lr {rate} is read as 1.0 with {optimizer}, as in ai-toolkit.")
    if train.get("train_text_encoder"):
        found.left_out["train.train_text_encoder"] = "the text encoders are not trained"
    if train.get("diff_output_preservation"):
        found.left_out.pop("train.diff_output_preservation", None)
        found.notices.append("diff_output_preservation: anchor_weight does the same here and is on.")


def _take_more(found: Imported, sections: Mapping[str, dict[str, Any]]) -> None:
    """Settings that follow from two of theirs."""
    save, model = sections["save"], sections["model"]
    average = table(sections["train"].get("ema_config"), "train.ema_config")
    if average.get("use_ema"):
        found.take("ema_decay", average.get("ema_decay", EMA_DECAY), "train.ema_config.ema_decay")
    every, kept = found.settings.get("save_every_n_steps"), fitting(save["max_step_saves_to_keep"], int)
    if every and isinstance(kept, int) and kept > 0:
        found.take("save_last_n_steps", (kept - 1) * every, "save.max_step_saves_to_keep")
    if model.get("quantize"):
        kind = quantization(model.get("qtype", "qfloat8"))
        if kind:
            found.take("base_quantization", kind, "model.qtype")
        else:
            found.left_out["model.qtype"] = f"{shown(model['qtype'])}: set base_quantization"
    if sections["logging"].get("use_wandb"):
        found.take("log_with", "all", "logging.use_wandb")


def _prompts(found: Imported, sample: Mapping[str, Any], name: str) -> list[str]:
    """Lines of a prompt file; what holds for all of their prompts is in each.

    Args:
        name: of the job, which [name] stands for in a job's own texts.
    """
    shared = {"w": sample.get("width"), "h": sample.get("height"), "d": sample.get("seed"), "n": sample.get("neg")}
    prompts = _listed(sample.get("prompts"))
    if sample.get("samples") is not None:
        if prompts:
            found.left_out["sample.prompts"] = f"{len(prompts)} prompts: sample.samples is used, as in ai-toolkit"
        prompts = _listed(sample["samples"])
    lines = []
    for entry in (one if isinstance(one, Mapping) else {"prompt": one} for one in prompts):
        own = {"w": entry.get("width"), "h": entry.get("height"), "d": entry.get("seed"), "n": entry.get("neg")}
        own |= {"s": entry.get("sample_steps"), "l": entry.get("guidance_scale")}
        options = {**shared, **{name: value for name, value in own.items() if value is not None}}
        text = str(entry.get("prompt") or "").replace("[name]", name)
        if text.strip():
            lines.append(prompt_line(with_our_placeholder(text), options))
    return lines


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _take_dataset(found: Imported, dataset: Mapping[str, Any], at: str) -> None:
    subset: dict[str, Any] = {"image_dir": str(dataset.get("folder_path") or dataset.get("dataset_path") or "")}
    if dataset.get("caption_ext"):
        subset["caption_extension"] = f".{str(dataset['caption_ext']).lstrip('.')}"
    for key, value in dataset.items():
        if key == "trigger_word" and value in (None, "", found.concept.get("trigger")):
            continue
        if key in DATASET:
            ours = found.fitted(DATASET[key], value, f"{at}{key}")
            if ours not in EMPTY:
                subset[DATASET[key]] = with_our_placeholder(ours) if isinstance(ours, str) else ours
        elif key not in NEEDLESS:
            found.leave(f"{at}{key}", value)
    if "conditioning_data_dir" in subset:
        found.settings["masked_loss"] = True
    sizes = [found.fitted("resolution", size, f"{at}resolution") for size in _listed(dataset.get("resolution", 512))]
    bucket = dataset.get("buckets", True) is not False
    for size in [size for size in sizes if size] or [512]:
        found.datasets.append({"resolution": size, "enable_bucket": bucket, "subsets": [subset]})
