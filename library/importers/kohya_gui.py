"""The JSON that the kohya_ss GUI saves: sd-scripts' names, with some of its own."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from library.config.kohya.training import known_names
from library.importers.imported import EMPTY, FIELDS, Imported
from library.importers.reading import number, shown

RENAMED = {
    "max_resolution": "resolution",
    "optimizer": "optimizer_type",
    "lora_network_weights": "network_weights",
    "trigger_phrase": "metadata_trigger_phrase",
}
TAB = "sd3_"
"""What the names of the tab for Stable Diffusion 3 begin with; they count where others hold the same."""
ONE_TEXT = ("optimizer_args", "lr_scheduler_args", "network_args")
"""Lists that the window holds as one text, with blanks between."""
READ_TOGETHER = ("epoch", "max_train_epochs", "max_train_steps", "lr_warmup", "lr_warmup_steps", "xformers",
                 "additional_parameters", "sample_prompts")  # fmt: skip
OF_THE_WINDOW = re.compile(
    r"flux|chroma|sdxl|lumina|hunyuan|anima|(?!pretrained).*_path$|num_(cpu|machines|processes)|multi_gpu|gpu_ids|"
    r"main_process_port|LoRA_type|.*_checkbox$|v2$|v_parameterization|model_list|model_type|extra_accelerate|dynamo_|"
    r"mem_eff|stop_text_encoder|save_as_bool|text_encoder_lr|t5xxl_lr|learning_rate_te|noise_offset_type|lowvram|"
    r"no_token_padding|show_timesteps"
)
"""Keys that don't matter for training with this model."""
OF_FLUX = frozenset(
    {"guidance_scale", "t5xxl_max_token_length", "apply_t5_attn_mask", "cpu_offload_checkpointing", "split_qkv"}
    | {"fp8_base_unet", "split_mode", "discrete_flow_shift", "model_prediction_type", "timestep_sampling", "ae"}
    | {"train_t5xxl", "train_blocks", "enable_all_linear", "single_blocks_to_swap", "double_blocks_to_swap", "in_dims"}
    | {"img_attn_dim", "img_mlp_dim", "img_mod_dim", "single_dim", "txt_attn_dim", "txt_mlp_dim", "txt_mod_dim"}
    | {"single_mod_dim", "train_double_block_indices", "train_single_block_indices"}
)
"""Keys of the tab for Flux, which the GUI hands on for Flux alone."""
OF_OTHER_NETWORKS = frozenset(
    {"LyCORIS_preset", "factor", "bypass_mode", "dora_wd", "use_cp", "use_tucker", "use_scalar", "unit", "constrain"}
    | {"rank_dropout_scale", "rescaled", "train_norm", "decompose_both", "train_on_input", "conv_dim", "conv_alpha"}
    | {"conv_dims", "conv_alphas", "block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"}
    | {"down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold"}
    | {"train_lora_ggpo", "ggpo_sigma", "ggpo_beta"}
)
"""Keys that the GUI hands on for other kinds of networks."""
PLAIN = ("Standard", "Flux1", "LoRA", "SD3")
"""Values of `LoRA_type` that are plain LoRAs."""
MARKS = frozenset({"LoRA_type", "max_resolution", "pretrained_model_name_or_path", "noise_offset_type", "model_list"})
"""Keys of which the GUI's files hold one or more, presets too."""
DEFAULTS = {
    "learning_rate": 1e-4,
    "lr_scheduler": "cosine",
    "lr_warmup": 10,
    "network_dim": 8,
    "network_alpha": 1,
    "optimizer": "AdamW8bit",
    "max_resolution": "512,512",
    "train_batch_size": 1,
    "mixed_precision": "fp16",
    "enable_bucket": True,
    "bucket_no_upscale": True,
}
"""Defaults of a new window that differ from ours, for what a preset leaves out."""
STEPS = 1600
"""sd-scripts' default length."""


def read(tables: Mapping[str, Any]) -> Imported:
    """The settings of a saved GUI; its folders become `train_data_dir` and `reg_data_dir`."""
    found = Imported("the kohya_ss GUI")
    found.assumed = {key: value for key, value in DEFAULTS.items() if key not in tables}
    tables = {**tables, **found.assumed}
    if tables.get("LoRA_type", "Standard") not in PLAIN:
        found.left_out["LoRA_type"] = f"{shown(tables['LoRA_type'])}: trained as a plain LoRA"
    if isinstance(tables.get("sample_prompts"), str):
        lines = [" ".join(line.split()) for line in tables["sample_prompts"].splitlines()]
        found.prompts = [line for line in lines if line and not line.startswith("#")]
    values, theirs = _handed_on(found, tables)
    _take_length(found, tables, values)
    _take_warm_up(tables, values)
    _take_attention(tables, values)
    _take_more_parameters(found, tables.get("additional_parameters"), values, theirs)
    found.take_as_sd_scripts(values, theirs)
    has_reg = {"reg_data_dir", "dataset_config"} & found.settings.keys()
    if not has_reg and found.settings.pop("prior_loss_weight", None) is not None:
        found.left_out["prior_loss_weight"] = "there are no regularisation images"
    model = _model_of(tables)
    if model:
        found.is_for(model)
    return found


def _handed_on(found: Imported, tables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What the GUI hands on to sd-scripts for this model, by sd-scripts' names, and what each is called in the file."""
    plain, known = tables.get("LoRA_type", "Standard") in PLAIN, {*FIELDS, *known_names()}
    values, theirs = dict[str, Any](), dict[str, str]()
    for key in sorted(tables, key=lambda key: key.startswith(TAB)):
        name, value = RENAMED.get(key, key), tables[key]
        if key.startswith(TAB) and key.removeprefix(TAB) in known:
            name = key.removeprefix(TAB)
        off = value is False and name in FIELDS and FIELDS[name][1].default is True
        if (
            key in READ_TOGETHER
            or key in OF_FLUX
            or (plain and key in OF_OTHER_NETWORKS)
            or (value in EMPTY and not off)
        ):
            continue
        if name in FIELDS or (name in known and not OF_THE_WINDOW.match(key)):
            values[name], theirs[name] = _listed(value) if name in ONE_TEXT else value, key
        elif not OF_THE_WINDOW.match(key):
            found.leave(key, value)
    return values, theirs


def _listed(value: Any) -> Any:
    return value.replace('"', "").split() if isinstance(value, str) else value


def _take_length(found: Imported, tables: Mapping[str, Any], values: dict[str, Any]) -> None:
    """How long to train: by max_train_epochs, which counts in sd-scripts, or max_train_steps, or else by epoch."""
    given = {key: _number(tables.get(key)) for key in ("max_train_epochs", "max_train_steps", "epoch")}
    given = {key: value for key, value in given.items() if value}
    values |= {key: value for key, value in given.items() if key != "epoch"}
    if not given:
        values["max_train_steps"] = found.assumed["max_train_steps"] = STEPS
    elif "epoch" not in given:
        return
    elif len(given) == 1:
        values["max_train_epochs"] = given["epoch"]
    else:
        counts = next(iter(given))
        if given[counts] != given["epoch"]:
            found.notices.append(f"{counts} {given[counts]} is used, as in the GUI; epoch {given['epoch']} is ignored.")


def _take_warm_up(tables: Mapping[str, Any], values: dict[str, Any]) -> None:
    """The percentage of lr_warmup, unless lr_warmup_steps says how many steps."""
    steps, percent = _number(tables.get("lr_warmup_steps")), _number(tables.get("lr_warmup"))
    if steps or percent:
        values["lr_warmup_steps"] = steps or min(0.99, max(0.0, percent / 100))


def _take_attention(tables: Mapping[str, Any], values: dict[str, Any]) -> None:
    if tables.get("xformers") in ("xformers", True):
        values["xformers"] = True


def _take_more_parameters(found: Imported, text: Any, values: dict[str, Any], theirs: dict[str, str]) -> None:
    """Options of sd-scripts typed into the window; they override its fields."""
    try:
        words = shlex.split(text, posix=False) if isinstance(text, str) else []
    except ValueError:
        found.leave("additional_parameters", text)
        return
    options: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--"):
            options[name] = [value.strip("\"'")] if equals else []
        elif options:
            options[next(reversed(options))].append(word.strip("\"'"))
    for name, given in options.items():
        if name in FIELDS or name in known_names():
            values[name] = True if not given else given if len(given) > 1 or name in ONE_TEXT else given[0]
            theirs[name] = f"additional_parameters --{name}"
        else:
            found.left_out[f"additional_parameters --{name}"] = shown(" ".join(given))


def _number(value: Any) -> int | float:
    """A number that may be in quotes; 0 if it isn't one."""
    value = number(value) if isinstance(value, str) else value
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0


def _model_of(tables: Mapping[str, Any]) -> str | None:
    """A file's model, if this trainer can't train it."""
    if tables.get("sd3_checkbox"):
        return None
    if tables.get("flux1_checkbox") or str(tables.get("LoRA_type", "")).startswith("Flux"):
        return "Flux"
    for key, model in (("sdxl", "SDXL"), ("sdxl_checkbox", "SDXL"), ("v2", "Stable Diffusion 2")):
        if tables.get(key):
            return model
    others = [key for key in tables if key.endswith("_checkbox") and tables[key]]
    if others:
        return others[0].removesuffix("_checkbox")
    return "Stable Diffusion 1.5" if tables.get("sd3_checkbox") is False or "v2" in tables else None
