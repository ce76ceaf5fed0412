"""What each method makes of the settings: which it reads, and which stand otherwise than in PureCC.

What it does with them is in `library/methods/`, a file each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.config.context_settings import ContextSettings
from library.config.fields import name_of
from library.config.loss_settings import LossSettings
from library.config.method_settings import MethodSettings
from library.config.network_settings import ATTENTION_PROJECTIONS, FEED_FORWARD, KINDS
from library.config.optimizers import apply_optimizer, finds_its_rate, is_schedule_free
from library.config.settings import (
    ConceptEmbeddingSettings,
    PureLearningSettings,
    Settings,
)
from library.errors import ConfigError

PURECC = "purecc"
CLASS_PROMPTS = str(Path(__file__).with_name("class_prompts.txt"))
"""What DreamBooth's class pictures are drawn from."""
LAYERS = frozenset({"target_modules", "train_block_indices"})
"""Which layers learn."""
LOW_RANK = frozenset(
    {"network_dropout", "rank_dropout", "module_dropout", "scale_weight_norms", "loraplus_lr_ratio", *KINDS}
)
"""Settings that need two matrices."""
ENCODERS = frozenset({"clip_l_dropout_rate", "clip_g_dropout_rate", "t5_dropout_rate"})
"""How often pictures are seen without a text encoder."""
LORA = LAYERS | LOW_RANK | ENCODERS | {"network_dim", "learning_rate", "network_verbose", "full_bf16"}
"""Settings of a LoRA."""
LOSS = frozenset(field.name for field in dataclasses.fields(LossSettings))
"""How errors count in the concept loss."""
RIVAL = LORA | LOSS | {"with_embeddings"}
"""The same of a method that may have vectors in the blocks as well."""
REPLAYED = frozenset({"replay_images", "replay_prompts", "replay_sample_steps"})
"""Settings of pictures that the pretrained model draws."""
STAGE_1 = frozenset({"extractor_train_steps", "extractor_learning_rate", "extractor_embedding_lr"})
VECTORS = frozenset({"embedding_lr", "concept_embeddings", "embedding_positions", "word_train_steps"})
"""Settings of vectors in the blocks."""
ED_LORA = LORA | LOSS | VECTORS
WITH_VECTORS = {"concept_embeddings": "per_block", "student_embeddings": "fresh"}
OFF: Mapping[str, Any] = {
    "eta": 0.0,
    "anchor_weight": 0.0,
    "extractor_anchor_weight": 0.0,
    "replay_weight": 0.0,
    "concept_embeddings": "none",
    "student_embeddings": "none",
    "surroundings_weight": 0.0,
    "context_vectors": 0,
}
"""PureCC and our additions turned off: what every other method starts from."""


@dataclass(frozen=True)
class Rules:
    """What a method makes of the settings.

    Args:
        trains: what it trains and by what, one sentence for the user.
        reads: the settings that it uses, of those that are not common to all methods.
        defaults: values that hold where the user says nothing.
    """

    trains: str
    reads: frozenset[str]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _names_of(group: type) -> frozenset[str]:
    return frozenset(name_of(field) for field in dataclasses.fields(group))


_OWN = _names_of(MethodSettings) - {"method"}
"""Settings of rivals."""
OF_SOME = (
    _OWN
    | _names_of(PureLearningSettings)
    | _names_of(ConceptEmbeddingSettings)
    | _names_of(ContextSettings)
    | LORA
    | LOSS
    | STAGE_1
    | {"embedding_lr"}
) - {"prior_loss_weight", "network_alpha"}
"""Settings that not every method reads; all others are common, as are the weight of regularisation pictures and the
scale that follows from the rank."""

RULES: Mapping[str, Rules] = {
    PURECC: Rules("an extractor, then a student beside it: PureCC", OF_SOME - _OWN),
    "lora": Rules("a LoRA on the pictures and nothing else", LORA | LOSS),
    "prior_preservation": Rules(
        "a LoRA on the pictures, and on pictures of the class that the pretrained model drew",
        RIVAL | REPLAYED,
        {"prior_loss_weight": 1.0, "replay_prompts": CLASS_PROMPTS},
    ),
    "dop": Rules(
        "a LoRA on the pictures, held to the pretrained model's prediction where the prompt lacks [V]",
        RIVAL | {"anchor_weight"},
        {"anchor_weight": 1.0},
    ),
    "prior_prediction": Rules(
        "a LoRA on the pictures, and on the pretrained model's own predictions for other pictures",
        RIVAL | REPLAYED | {"replay_weight"},
        {"replay_weight": 1.0},
    ),
    "l2_anchor": Rules("a LoRA on the pictures, its change of the weights kept short", RIVAL | {"l2_anchor_weight"}),
    "dco": Rules(
        "a LoRA on the pictures, only until it does better on them than the pretrained model",
        RIVAL - LOSS | {"dco_beta"},
    ),
    "ewc": Rules(
        "a LoRA on the pictures, its change kept small where the pretrained model's pictures depend on the weights",
        RIVAL | REPLAYED | {"ewc_lambda", "ewc_fisher_samples"},
    ),
    "dreambooth": Rules(
        "the whole weights of attention and feed-forward layers, on the pictures and on class pictures",
        RIVAL - LOW_RANK - {"network_verbose"}
        | REPLAYED
        | {"ewc_lambda", "ewc_fisher_samples", "l2_anchor_weight", "fused_backward_pass"},
        {
            "prior_loss_weight": 1.0,
            "replay_prompts": CLASS_PROMPTS,
            "target_modules": ATTENTION_PROJECTIONS + FEED_FORWARD,
            "network_dim": 32,
            "learning_rate": 5e-6,
            "optimizer_type": "AdamW8bit",
            "ewc_lambda": 0.0,
            "l2_anchor_weight": 0.0,
        },
    ),
    "textual_inversion": Rules("the concept's words alone, in front of both CLIPs", LOSS | {"embedding_lr"}),
    "mix_of_show": Rules("a LoRA, and a vector in every block for each token of [V]: ED-LoRA", ED_LORA, WITH_VECTORS),
    "cifc": Rules(
        "ED-LoRA for one concept after the other, each in a subspace of its own",
        ED_LORA | {"previous_loras", "orthogonal_weight"},
        WITH_VECTORS,
    ),
}
"""Every method, by the name that `method` gives it."""


def _may_have_vectors(method: str) -> bool:
    return "with_embeddings" in RULES[method].reads


def unread(method: str, with_embeddings: bool = False) -> frozenset[str]:
    """Settings that a method does not use.

    Args:
        with_embeddings: the setting of that name.
    """
    return OF_SOME - RULES[method].reads - (VECTORS if with_embeddings and _may_have_vectors(method) else frozenset())


def apply_method(values: dict[str, Any], where: dict[str, str], notices: list[str]) -> None:
    """Takes out of the values what the method does not use, says so, and puts in what it and its optimizer want.

    Args:
        values, where: settings by name, and where each was given; changed in place.
        notices: a sentence is added if something was taken out.
    """
    method = values.get("method", PURECC)
    if not isinstance(method, str) or method not in RULES:
        return  # the check of the setting itself says so
    with_embeddings = values.get("with_embeddings") is True and _may_have_vectors(method)
    needless = sorted(unread(method, with_embeddings) & set(values))
    for name in needless:
        del values[name]
        where.pop(name, None)
    if method == "cifc" and not values.get("previous_loras"):
        notices.append("cifc with one concept equals mix_of_show: previous_loras names no LoRA of an earlier one.")
    if needless:
        notices.append(f'method = "{method}" does not use {", ".join(needless)}: what stands there changes nothing.')
    base = {} if method == PURECC else OFF
    vectors = WITH_VECTORS if with_embeddings else {}
    for name, value in {**base, **RULES[method].defaults, **vectors}.items():
        values.setdefault(name, value)
    apply_optimizer(values, unread(method, with_embeddings), notices)


def check_method(settings: Settings) -> None:
    """Refuses what a method can't do.

    Raises:
        ConfigError: it says what to change.
    """
    method, optimizer, full_bf16 = settings.method, settings.optimizer, settings.network.full_bf16
    if full_bf16 and optimizer.ema_decay is not None:
        raise ConfigError(
            "full_bf16 keeps weights in bf16, in which a moving average would stand still.", "Take ema_decay out."
        )
    if method.method != "dreambooth":
        return
    if settings.model.quantization != "none":
        raise ConfigError(
            "dreambooth changes the weights themselves, which base_quantization rounds.",
            "Take base_quantization and fp8_base out.",
        )
    if full_bf16 and not method.fused_backward_pass:
        raise ConfigError("full_bf16 rounds by chance inside the backward pass.", "Set fused_backward_pass = true.")
    if not method.fused_backward_pass:
        return
    said = "fused_backward_pass makes each weight's step by itself, inside the backward pass"
    if optimizer.gradient_accumulation_steps > 1:
        raise ConfigError(f"{said}; gradients can't be accumulated.", "Set gradient_accumulation_steps = 1.")
    if settings.model.mixed_precision == "fp16":
        raise ConfigError(f"{said}; fp16 scales gradients for all at once.", 'Set mixed_precision = "bf16".')
    if finds_its_rate(optimizer.optimizer_type) or is_schedule_free(optimizer.optimizer_type):
        raise ConfigError(
            f"{said}; {optimizer.optimizer_type} looks at all weights at once.", 'Set optimizer_type = "AdamW8bit".'
        )
