"""Translates kohya's sd-scripts' settings that are not ours: renamed, not needed here, ignored or refused.

Our own settings come first: this is used only if `settings` has no such name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from library.config.groups import paths
from library.config.kohya.elsewhere import IGNORED, OF_ANOTHER_MODEL
from library.config.kohya.network import network_args
from library.errors import ConfigError, PureCCError

NEEDLESS = frozenset(
    [
        "cache_latents",
        "cache_latents_to_disk",
        "cache_text_encoder_outputs",
        "cache_text_encoder_outputs_to_disk",
        "vae_batch_size",
        "text_encoder_batch_size",
        "network_train_unet_only",
        "max_data_loader_n_workers",
        "persistent_data_loader_workers",
        "lowram",
        "highvram",
        "save_state_to_huggingface",
        "tokenizer_cache_dir",
        "disable_mmap_load_safetensors",
        "no_half_vae",
        "console_log_level",
        "console_log_file",
        "console_log_simple",
        "cache_info",
        "debug_dataset",
        "output_config",
        "dataset_class",
        "prior_loss",
        "dynamo_backend",
        "ddp_timeout",
        "ddp_gradient_as_bucket_view",
        "ddp_static_graph",
        "config_file",
        "num_cpu_threads_per_process",
        "use_safetensors",
    ]
)
"""What is always on here, or has no counterpart and no effect on the result."""

NO_EFFECT = {
    "it is for models that predict noise, which Stable Diffusion 3 doesn't": """
        noise_offset noise_offset_random_strength adaptive_noise_scale multires_noise_iterations multires_noise_discount
        zero_terminal_snr ip_noise_gamma ip_noise_gamma_random_strength min_snr_gamma debiased_estimation_loss
        scale_v_pred_loss_like_noise_pred v_pred_like_loss v2 v_parameterization perlin_noise""",
    "sheets use Euler's method, as ComfyUI does for this model": "sample_sampler",
    "optimizers are never wrapped; choose a schedule-free one with optimizer_type": """
        optimizer_schedulefree_wrapper schedulefree_wrapper_args""",
    "not used by Stable Diffusion 3": "clip_skip max_token_length mem_eff_attn network_multiplier",
    "it changes the position embedding, which harms a LoRA": "enable_scaled_pos_embed pos_emb_random_crop_rate",
    "this trainer runs on one device": """
        deepspeed zero_stage offload_optimizer_device offload_optimizer_nvme_path offload_param_device
        offload_param_nvme_path zero3_init_flag zero3_save_16bit_model fp16_master_weights_and_gradients""",
    "nothing is uploaded": """
        huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token
        huggingface_repo_visibility resume_from_huggingface async_upload""",
    "PureCC leaves the text encoders as they are": "text_encoder_lr train_t5xxl text_encoder_lr1 text_encoder_lr2",
    "gradients and AdamW's eps vanish in float16; a LoRA in float32 costs little memory": "full_fp16",
    'keys do not belong in settings files; log in once with "wandb login"': "wandb_api_key",
    "its latents could not be cached": "color_aug face_crop_aug_range",
    "the check takes 2 ms per image and keeps damaged files out": "skip_cache_check",
    "captions stay the same throughout training": "token_warmup_min token_warmup_step",
    "captions are encoded once, before training": "t5xxl_dtype t5xxl_device",
}
"""Settings that are ignored with a warning, by the reason."""

REFUSED = {
    "save_clip": "This trainer does not train the text encoders; according to sd-scripts, it does not work. Remove it.",
    "save_t5xxl": "This trainer does not train the text encoders; according to sd-scripts, it does not work. Remove "
    "it.",
    "in_json": "This trainer reads images and captions from folders: use train_data_dir or image_dir.",
    "metadata_file": "This trainer reads images and captions from folders: use image_dir, with a caption file next to "
    "each image.",
    "weighted_captions": "Weights in captions are not used; sd-scripts doesn't use them for this model either. Remove "
    "it.",
    "network_train_text_encoder_only": "This trainer does not train the text encoders. Remove it.",
    "conditioning_data_dir": "Each image folder has its own masks: set it in [[datasets.subsets]].",
    "train_inpainting": "This trainer only trains text to image.",
}
"""Settings that would change the result but are not supported, with what to do instead."""

DEFAULTS_THAT_DIFFER = {
    "learning_rate": "2e-6",
    "network_dim": "4",
    "max_train_steps": "1600",
    "train_batch_size": "1",
    "weighting_scheme": "uniform",
    "mixed_precision": "no",
    "max_bucket_reso": "1024",
}
"""Settings with another default in sd-scripts, and that default."""

COUNTS_OVER = {
    "max_train_epochs": ("max_train_steps", "as in sd-scripts"),
    "sample_every_n_epochs": ("sample_every_n_steps", "as in sd-scripts"),
    "initial_step": ("initial_epoch", "as in sd-scripts"),
    "save_every_n_steps": ("save_every_n_epochs", "because files are saved by steps or by epochs, not both"),
    "validate_every_n_steps": (
        "validate_every_n_epochs",
        "because the validation loss is computed by steps or by epochs, not both",
    ),
}
"""Pairs of settings for the same thing: the one that counts if both are set, the other, and why."""


@dataclass
class Translation:
    """Settings being read: their values and places, what to report, and what is wrong."""

    values: dict[str, Any]
    where: dict[str, str]
    notices: list[str]
    problems: list[PureCCError]

    def map_all(self, ours: Mapping[str, Any]) -> None:
        """Translates sd-scripts' settings that we don't have into ours.

        Args:
            ours: the names of our settings.
        """
        foreign = [name for name in self.values if name not in ours]
        needless, ignored, passed_over = [], list[str](), list[str]()
        for name in foreign:
            value, place = self.values.pop(name), self.where[name]
            if name in MAPPED:
                self._map(name, value, place)
            elif name in NEEDLESS:
                needless.append(name)
            elif name in IGNORED:
                ignored += [name] if value not in (None, False, "", 0, []) else []
            elif name in REFUSED and value not in (None, False, "", []):
                self.problems.append(ConfigError(f'{place}: "{name}" is not supported.', REFUSED[name]))
            elif name in WHY_NO_EFFECT and value not in (None, False, "", 0, []):
                passed_over.append(f"WARNING: {name} is ignored: {WHY_NO_EFFECT[name]}.")
        self._mend_values(ours)
        self._choose()
        if needless:
            self.notices.append(f"Not needed here: {', '.join(needless)}.")
        if ignored:
            length = {"max_train_epochs", "max_train_steps"} & set(self.values)
            remedy = " To train for N epochs, set max_train_epochs." if "epoch" in ignored and not length else ""
            self.notices.append(f"Ignored, as in the SD3 trainer of sd-scripts: {', '.join(ignored)}.{remedy}")
        self.notices += passed_over
        if foreign:
            self._say_defaults()

    def _map(self, name: str, value: Any, place: str) -> None:
        try:
            new, notice = MAPPED[name](value, self.values)
        except ConfigError as error:
            self.problems.append(ConfigError(f"{place}: {error.what}", error.remedy))
            return
        for key, mapped in new.items():
            if key in self.values and key != "learning_rate" and self.values[key] != mapped:
                notice = f"{name} and {key} are both set; {key} is used."
                continue
            self.values[key] = mapped
            self.where[key] = place
        if notice:
            self.notices.append(notice)

    def _choose(self) -> None:
        """Of two settings for the same thing, removes the one that does not count."""
        for name, (other, why) in COUNTS_OVER.items():
            if self.values.get(name) is not None and self.values.get(other) is not None:
                beaten = self.values.pop(other)
                self.notices.append(f"{name} {self.values[name]} is used, {why}; {other} {beaten} is ignored.")

    def _mend_values(self, ours: Mapping[str, Any]) -> None:
        """Replaces values that sd-scripts knows but we don't."""
        for name, mend in VALUES.items():
            if name in self.values and name in ours:
                self.values[name], notice = mend(self.values[name])
                if notice:
                    self.notices.append(notice)
        for name in paths() & set(self.values):
            self.values[name] = expanded(self.values[name])
        dim = self.values.get("network_dim")
        if isinstance(dim, int) and dim > 0 and "network_alpha" not in self.values:
            self.values["network_alpha"] = dim
            self.where["network_alpha"] = self.where["network_dim"]
            self.notices.append(
                "network_alpha is not set, so it equals network_dim and does not scale the learning rate."
            )

    def _say_defaults(self) -> None:
        unset = [name for name in DEFAULTS_THAT_DIFFER if name not in self.values]
        if "max_train_epochs" in self.values:
            unset = [name for name in unset if name != "max_train_steps"]
        if unset:
            said = ", ".join(f"{name} ({DEFAULTS_THAT_DIFFER[name]} in sd-scripts)" for name in unset)
            self.notices.append(f"Not set, so this trainer's own defaults apply: {said}.")


def expanded(path: Any) -> Any:
    """A path, or each of a list, with ~ and environment variables expanded; other values don't change."""
    if isinstance(path, list):
        return [expanded(one) for one in path]
    return os.path.expanduser(os.path.expandvars(path)) if isinstance(path, str) else path


def known_names() -> set[str]:
    """Every name of sd-scripts that is handled here."""
    return {*MAPPED, *NEEDLESS, *IGNORED, *REFUSED, *WHY_NO_EFFECT}


def _network_module(value: Any, _: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    module = str(value)
    if module.startswith("lycoris"):
        raise ConfigError(
            f"network_module {module} is not supported: PureCC needs plain LoRAs that can be switched within a batch.",
            'Set network_module = "networks.lora_sd3", or remove it.',
        )
    if module in OF_ANOTHER_MODEL:
        raise ConfigError(
            f"network_module {module} is for {OF_ANOTHER_MODEL[module]}, and this trainer is for Stable Diffusion 3.5.",
            "Name a checkpoint of Stable Diffusion 3.5, review learning rate, rank and steps, and remove "
            "network_module.",
        )
    if module not in ("networks.lora_sd3", "networks.lora"):
        raise ConfigError(f'"{module}" is not a network_module.', 'Set it to "networks.lora_sd3", or remove it.')
    return {}, f"network_module {module}: read as PureCC's own LoRA."


def _network_args(value: Any, _: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    found, said = network_args(value)
    return found, " ".join(said) or None


def _save_n_epoch_ratio(value: Any, values: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    epochs = values.get("max_train_epochs")
    if not isinstance(epochs, int) or not isinstance(value, int) or value < 1:
        return {}, "save_n_epoch_ratio is ignored: it needs max_train_epochs."
    every = max(1, epochs // value)
    return {"save_every_n_epochs": every}, f"save_n_epoch_ratio {value}: save_every_n_epochs = {every}."


def _save_model_as(value: Any, _: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    if value != "safetensors":
        raise ConfigError(f'save_model_as is "{value}"; this trainer only writes safetensors.', "Remove it.")
    return {}, None


def _use_8bit_adam(value: Any, _: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    return ({"optimizer_type": "AdamW8bit"}, 'use_8bit_adam: optimizer_type = "AdamW8bit".') if value else ({}, None)


def _use_lion(value: Any, _: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    return ({"optimizer_type": "Lion"}, 'use_lion_optimizer: optimizer_type = "Lion".') if value else ({}, None)


def _renamed(ours: str) -> Callable[[Any, Mapping[str, Any]], tuple[dict[str, Any], str | None]]:
    def rename(value: Any, _: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        return ({ours: value} if value is not None else {}), None

    return rename


def _unet_lr(value: Any, values: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    if value is None:
        return {}, None
    over = "" if values.get("learning_rate", value) == value else f", not learning_rate {values['learning_rate']}"
    return {"learning_rate": value}, f"unet_lr is the LoRA's learning rate, {value}{over}."


MAPPED: dict[str, Callable[[Any, Mapping[str, Any]], tuple[dict[str, Any], str | None]]] = {
    "network_module": _network_module,
    "network_args": _network_args,
    "save_n_epoch_ratio": _save_n_epoch_ratio,
    "save_model_as": _save_model_as,
    "use_8bit_adam": _use_8bit_adam,
    "use_lion_optimizer": _use_lion,
    "unet_lr": _unet_lr,
    "fp8_base_unet": _renamed("fp8_base"),
    "caption_extention": _renamed("caption_extension"),
}
"""The translation of a setting: our settings with their values, and what is reported about it."""

WHY_NO_EFFECT = {name: why for why, names in NO_EFFECT.items() for name in names.split()}


def _resolution(value: Any) -> tuple[Any, str | None]:
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)?", value):
        sides = [int(side) for side in value.split(",")]
        return (sides[0] if len(sides) == 1 else sides), None
    return value, None


def _weighting(value: Any) -> tuple[Any, str | None]:
    if value in ("none", "sigma_sqrt", "cosmap"):
        return "uniform", f'weighting_scheme "{value}": noise levels are drawn uniformly; the loss is not weighted.'
    return value, None


def _steps(value: Any) -> tuple[Any, str | None]:
    return (int(value), None) if isinstance(value, float) and value == int(value) and value >= 1 else (value, None)


def _listed(value: Any) -> tuple[Any, str | None]:
    return (value if isinstance(value, list) else [] if value is None else [value]), None


VALUES: dict[str, Callable[[Any], tuple[Any, str | None]]] = {
    "resolution": _resolution,
    "weighting_scheme": _weighting,
    "lr_warmup_steps": _steps,
    "lr_decay_steps": _steps,
    "base_weights": _listed,
    "base_weights_multiplier": _listed,
}
"""Values of our settings that sd-scripts writes differently."""
