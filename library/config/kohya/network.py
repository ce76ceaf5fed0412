"""Translates `network_args`, which sd-scripts passes to its LoRA for Stable Diffusion 3."""

from __future__ import annotations

from typing import Any

from library.config.fields import from_command_line, hints_of
from library.config.network_settings import NetworkSettings
from library.errors import ConfigError, did_you_mean

DIMS = ("context_attn_dim", "context_mlp_dim", "context_mod_dim", "x_attn_dim", "x_mlp_dim", "x_mod_dim")
OURS = {
    **{name: name for name in (*DIMS, "train_block_indices", "rank_dropout", "module_dropout", "loraplus_lr_ratio")},
    "loraplus_unet_lr_ratio": "loraplus_lr_ratio",
    "verbose": "network_verbose",
}
"""Arguments that are settings here, by sd-scripts' name."""
PASSED_OVER = {
    "split_qkv": "q, k and v always have a LoRA each; kohya's layout saves them as one",
    "conv_dim": "this model's blocks have no convolutions, and sd-scripts doesn't use it either",
    "conv_alpha": "this model's blocks have no convolutions, and sd-scripts doesn't use it either",
    "train_t5xxl": "PureCC leaves the text encoders as they are",
    "loraplus_text_encoder_lr_ratio": "PureCC leaves the text encoders as they are",
}
"""Arguments without effect, each with the reason."""
OUTSIDE = "emb_dims"
"""Ranks of LoRAs on the layers before and after the blocks."""


def network_args(value: Any) -> tuple[dict[str, Any], list[str]]:
    """Our settings, and what is reported about the rest.

    Args:
        value: one or several texts of the form "name=value".

    Raises:
        ConfigError: the form is wrong, or an argument is unknown or not supported.
    """
    if value is not None and not isinstance(value, str | list):
        raise ConfigError(
            f"network_args is {value!r}; it must be a list of strings.",
            'For example network_args = ["rank_dropout=0.1"].',
        )
    found, said = {}, list[str]()
    for text in [value] if isinstance(value, str) else value or ():
        name, equals, given = (part.strip() for part in str(text).partition("="))
        if not equals:
            raise ConfigError(
                f'network_args: "{text}" is not of the form "name=value".', 'For example "rank_dropout=0.1".'
            )
        if name in OURS:
            found[OURS[name]] = _value(OURS[name], given)
        elif name in PASSED_OVER:
            if given not in ("False", "0", "None", ""):
                said.append(f"network_args {text} is ignored: {PASSED_OVER[name]}.")
        elif name == OUTSIDE:
            _check_outside(given)
        else:
            known = [*OURS, *PASSED_OVER, OUTSIDE]
            remedy = "Write network_dropout instead." if name == "dropout" else did_you_mean(name, known)
            raise ConfigError(f'network_args: "{name}" is not an argument of the LoRA for SD3.', remedy)
    return found, said


def _value(name: str, given: str) -> Any:
    if name == "train_block_indices":
        return given
    return from_command_line(given, int if name in DIMS else hints_of(NetworkSettings)[name])


def _check_outside(given: str) -> None:
    dims = [part.strip() for part in given.strip("[] ").split(",")]
    if len(dims) != 6 or not all(dim.isdecimal() for dim in dims):
        raise ConfigError(
            f"network_args: emb_dims is {given}; it must be six whole numbers.", 'For example "emb_dims=[0,0,0,0,0,0]".'
        )
    if any(int(dim) for dim in dims):
        raise ConfigError(
            "network_args: emb_dims trains layers outside the transformer blocks, where the two branches in a batch "
            "can't have different LoRAs.",
            "Remove emb_dims. x_mod_dim and context_mod_dim train the modulation inside the blocks.",
        )
