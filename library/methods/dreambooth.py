"""DreamBooth: full fine-tuning with prior preservation.

Ruiz et al. (arXiv 2208.12242), Eq. 2: flow matching on the pictures with "a [V] [class]", and on class pictures from
the pretrained model, with prior_loss_weight. As in diffusers' script.

The port:

* Each weight's change learns, separately from the pretrained weight. The steps are the same, but the pretrained model
  stays available for sheets, ties and audits, and bf16 does not round a small change away. The memory is that of an
  fp32 master copy and a bf16 one: bytes per number are 2 for the base, 4 for the change (2 with full_bf16), 2 for an
  8-bit optimizer, and none for gradients with fused_backward_pass.
* All linear layers of attention and feed-forward in the blocks learn, about two thirds of SD 3.5 Medium's weights. The
  adaptive norms don't, as Stability advises for tuning, unless target_modules names `norm1.linear`. Biases, norms and
  everything outside the blocks don't learn either.
* The learning rate is the paper's 5e-6. diffusers' default is 1e-4; PureCC's table may use the same.
* `ewc_lambda` and `l2_anchor_weight` add these penalties for whole weights.

The run saves the whole transformer (NAME_transformer.safetensors, diffusers' names), and in all layouts a LoRA of rank
network_dim with the largest singular directions of each layer's change.
"""

from __future__ import annotations

from dataclasses import dataclass

from library.config.family_settings import attention_layers, feed_forward_layers
from library.config.fields import setting
from library.config.optimizers import finds_its_rate, is_schedule_free
from library.config.settings import Settings
from library.errors import ConfigError
from library.methods import ewc, l2_anchor
from library.methods.method import Method, PenaltyTerm, register
from library.methods.prior_preservation import CLASS_PROMPTS, objective
from library.methods.reads import LOW_RANK, REPLAYED, RIVAL


@dataclass(frozen=True, kw_only=True)
class DreamBoothSettings:
    """Settings of DreamBooth."""

    fused_backward_pass: bool = setting(
        True, "dreambooth: update each weight inside the backward pass, so that gradients need no memory."
    )


def fuses_steps(settings: Settings) -> bool:
    """Whether weights are updated inside the backward pass."""
    return settings.of_method(DreamBoothSettings).fused_backward_pass


def penalties(settings: Settings) -> list[PenaltyTerm]:
    """Both penalties, if their weights are not 0."""
    return [*ewc.penalties(settings), *l2_anchor.penalties(settings)]


def check(settings: Settings) -> None:
    """Checks for settings that don't work with whole weights or with steps inside the backward pass.

    Raises:
        ConfigError: it says what to change.
    """
    optimizer = settings.optimizer
    if settings.model.quantization != "none":
        raise ConfigError(
            "dreambooth trains the model's own weights, which base_quantization would round.",
            "Remove base_quantization and fp8_base.",
        )
    if not fuses_steps(settings):
        if settings.network.full_bf16:
            raise ConfigError(
                "full_bf16 needs fused_backward_pass for its stochastic rounding.", "Set fused_backward_pass = true."
            )
        return
    said = "fused_backward_pass updates each weight separately, inside the backward pass"
    if optimizer.gradient_accumulation_steps > 1:
        raise ConfigError(f"{said}; gradients can't be accumulated.", "Set gradient_accumulation_steps = 1.")
    if settings.model.mixed_precision == "fp16":
        raise ConfigError(f"{said}; fp16 needs the gradients of all weights at once.", 'Set mixed_precision = "bf16".')
    if finds_its_rate(optimizer.optimizer_type) or is_schedule_free(optimizer.optimizer_type):
        raise ConfigError(
            f"{said}; {optimizer.optimizer_type} needs all weights at once.", 'Set optimizer_type = "AdamW8bit".'
        )


register(
    Method(
        name="dreambooth",
        trains="all weights of attention and feed-forward layers, on your images and on class images",
        reads=RIVAL - LOW_RANK - {"network_verbose"}
        | REPLAYED
        | {"ewc_lambda", "ewc_fisher_samples", "l2_anchor_weight"},
        own=DreamBoothSettings,
        defaults={
            "prior_loss_weight": 1.0,
            "replay_prompts": CLASS_PROMPTS,
            "target_modules": attention_layers() + feed_forward_layers(),
            "network_dim": 32,
            "learning_rate": 5e-6,
            "optimizer_type": "AdamW8bit",
            "ewc_lambda": 0.0,
            "l2_anchor_weight": 0.0,
        },
        student=objective,
        student_weights="full",
        penalties=penalties,
        fuses_steps=fuses_steps,
        check=check,
    )
)
