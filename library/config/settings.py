"""Every setting of a run, once. Files, command line, help and checks all use these declarations.

Names are those of kohya's sd-scripts where it has the setting. In a TOML file a setting can be at the top or in any
section: section names are for the reader, as in sd-scripts. The defaults are the preset `presets/lean.toml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from library.config.context_settings import ContextSettings
from library.config.data_settings import DataSettings
from library.config.fields import setting
from library.config.loss_settings import LossSettings
from library.config.metadata_settings import MetadataSettings
from library.config.method_settings import MethodSettings
from library.config.model_settings import ModelSettings
from library.config.network_settings import NetworkSettings
from library.config.sample_settings import SampleSettings
from library.config.saving_settings import SavingSettings
from library.errors import ConfigError

Own = TypeVar("Own")


@dataclass(frozen=True, kw_only=True)
class ConceptEmbeddingSettings:
    """[concept_embeddings]: the learned vectors that stand for [V] inside the transformer (PureCC, Eq. 7)."""

    concept_embeddings: Literal["per_block", "shared", "first_block", "none"] = setting(
        "per_block",
        "Vectors that stand for [V]: one per block and token (as in the paper), one shared by all blocks, one "
        "at the first block, or none.",
    )
    student_embeddings: Literal["own", "fresh", "shared", "none"] = setting(
        "fresh",
        "The student's vectors: own (a copy of the extractor's that keeps learning), fresh (started from the "
        "class word), shared (the extractor's, frozen) or none (LoRA and trigger word carry the concept).",
    )

    @property
    def every_stream(self) -> bool:
        """Whether the trigger's tokens in all of the model's text streams get vectors, or only those in the first."""
        return True


@dataclass(frozen=True, kw_only=True)
class PureLearningSettings:
    """[pure_learning]: the PureCC objective of both stages."""

    eta: float = setting(
        0.0,
        "Weight of the pure loss, L_PureCC; presets/pure.toml sets 0.5. 0 turns it off, and stage 1 too, unless "
        "student_embeddings needs it.",
        at_least=0,
    )
    lambda_: Literal["adaptive"] | float = setting(
        "adaptive", 'Scale of the concept guidance. "adaptive" is lambda* (Eq. 12); a number fixes it.', name="lambda"
    )
    v_original: Literal["live", "detached", "frozen"] = setting(
        "detached",
        "Base prediction in L_PureCC: from the student with gradient (live), from the student without "
        "gradient (detached), or from the base model (frozen).",
    )
    guidance_against: Literal["null", "class"] = setting(
        "class",
        "Prompt that R(target) is measured against: the empty prompt (null, Eq. 8) or the class without [V] "
        "(class, ours).",
    )
    guidance_lora: bool = setting(
        True, "Keep the extractor's LoRA on while computing R(target). Off: use only its embeddings (authors' release)."
    )
    concept_loss_weight: float = setting(
        1.0, "Weight of the concept loss, L_CC, in stage 2. 0: learn from the guidance alone.", at_least=0
    )
    anchor_weight: float = setting(
        6.0,
        "Holds the student to the base model on a subject's base prompts, so that the class stays the same "
        "(ours). 0: off.",
        at_least=0,
    )
    extractor_anchor_weight: float = setting(
        1.0, "The same for the extractor in stage 1, which keeps its guidance clean (ours).", at_least=0
    )
    replay_images: int = setting(
        48,
        "Number of images that the base model draws once, so that the student keeps drawing them (ours).",
        at_least=0,
    )
    replay_weight: float = setting(
        5.0,
        "Holds the student to the base model on replayed images, so that other prompts stay the same (ours). 0: off.",
        at_least=0,
    )
    extractor_replay_weight: float = setting(
        0.0, "The same as replay_weight, for the extractor in stage 1 (ours).", at_least=0
    )
    surroundings_weight: float = setting(
        2.0,
        "Keeps the effect of [V] inside the subject's area, by holding the rest of replayed class images to "
        "the base model (ours). For subjects only. 0: off.",
        at_least=0,
    )
    word_weight: float = setting(
        1.0,
        "Teaches the LoRA to work by the trigger word alone, without the concept vectors (ours). The weight "
        "grows during stage 2 from a tenth. Sheets and measurements then show the LoRA alone. 0: the vectors "
        "carry the concept.",
        at_least=0,
    )
    word_states_weight: float = setting(
        0.3,
        "Weight, within the word's loss, of the distance between the trigger's hidden states in every block and the "
        "vectors (ours). It teaches the word faster. 0: only the predictions are compared.",
        at_least=0,
    )
    ties: Literal["turns", "all"] = setting(
        "turns",
        "Losses of a step besides the concept loss: one of them in turns, weighted so that the average is the "
        "same (turns, ours), or all of them (all).",
    )
    prior_loss_weight: float | None = setting(
        None,
        "Weight of DreamBooth's prior preservation: on regularisation images (is_reg; unset: 1) or, without "
        "any, on replayed images (unset: 0).",
        at_least=0,
    )
    replay_prompts: str | None = setting(
        None,
        "Text file with one prompt per line for the replayed images. Unset: prompts made from the class words.",
        holds="path",
    )
    replay_sample_steps: int = setting(20, "Sampling steps of a replayed image.", at_least=1)
    replay_resolution: int = setting(
        768,
        "Longer side of the replayed images in pixels, at most. Each pixel costs time, in drawing and in training. "
        "They are never larger than the training images.",
        at_least=32,
    )
    merged: bool = setting(
        False, "Skip stage 1 and train the extractor together with the student (the paper's ablation)."
    )
    extractor: str | None = setting(
        None, "Saved extractor to start stage 2 from, instead of training one.", holds="path"
    )


@dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """[noise]: the noise levels of training."""

    weighting_scheme: Literal["logit_normal", "mode", "uniform"] = setting(
        "logit_normal", "Distribution of the noise levels in training. The loss itself is not weighted."
    )
    logit_mean: float = setting(0.0, "Mean of the logit-normal distribution.")
    logit_std: float = setting(1.0, "Standard deviation of the logit-normal distribution.", above=0)
    mode_scale: float = setting(1.29, "Scale of the mode distribution.")
    training_shift: float = setting(1.0, "Values above 1 train more on strong noise.", above=0)
    min_timestep: int = setting(0, "Lowest noise level to train on, of 1000.", at_least=0, at_most=999)
    max_timestep: int = setting(1000, "Highest noise level to train on, of 1000.", at_least=1, at_most=1000)

    def __post_init__(self) -> None:
        if self.min_timestep >= self.max_timestep:
            raise ConfigError(
                f"min_timestep is {self.min_timestep}; it must be below max_timestep, {self.max_timestep}."
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """[optimizer]: length of the training, learning rates and optimizer."""

    extractor_train_steps: int = setting(200, "Steps of stage 1, the extractor.", at_least=0)
    max_train_steps: int = setting(400, "Steps of stage 2, the student.", at_least=0)
    max_train_epochs: int | None = setting(None, "Epochs of stage 2, instead of max_train_steps.", at_least=1)
    initial_step: int | None = setting(
        None,
        "Start counting stage 2 at this step, so it makes fewer steps. For a student that has trained before, "
        "with network_weights or resume. The learning rate schedule starts again unless you resume a state.",
        at_least=0,
    )
    initial_epoch: int | None = setting(
        None, "The same in epochs, starting with 1. If both are set, initial_step wins.", at_least=1
    )
    skip_until_initial_step: bool = setting(
        False,
        "With initial_step: continue images, noise and prompts as if the earlier steps had been made here. "
        "Off: start them again.",
    )
    ema_decay: float | None = setting(
        None,
        "Save, draw and measure an exponential moving average of the student, in which each step counts 1 - "
        "ema_decay (more in the first steps). For example 0.99. Unset: off.",
        above=0,
        at_most=0.99999,
    )
    learning_rate: float = setting(1e-4, "Learning rate of the LoRA.", at_least=0)
    embedding_lr: float = setting(
        1e-2,
        "Learning rate of the concept embeddings, relative to the size of the states that they replace: 0.01 "
        "is one percent per step. textual_inversion: absolute learning rate of its words.",
        at_least=0,
    )
    extractor_learning_rate: float | None = setting(
        None, "Learning rate of the LoRA in stage 1. Unset: learning_rate.", at_least=0
    )
    extractor_embedding_lr: float | None = setting(
        None, "Learning rate of the embeddings in stage 1. Unset: embedding_lr.", at_least=0
    )
    optimizer_type: str = setting(
        "AdamW",
        "Optimizer: AdamW, AdamW8bit, PagedAdamW8bit, Prodigy, AdamWScheduleFree and others by sd-scripts' "
        "names, a name from torch.optim, or the full name of a class, module.Class.",
    )
    optimizer_args: list[str] = setting([], 'Arguments of the optimizer, each as "name=value".')
    lr_scheduler: Literal[
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "polynomial",
        "inverse_sqrt",
        "warmup_stable_decay",
    ] = setting("constant", "How the learning rates change during a stage.")
    lr_warmup_steps: int | float = setting(
        0, "Steps in which the learning rates rise from 0. Below 1: share of a stage.", at_least=0
    )
    lr_decay_steps: int | float = setting(
        0, "Steps in which warmup_stable_decay falls at the end. Below 1: share of a stage.", at_least=0
    )
    lr_scheduler_min_lr_ratio: float = setting(
        0.0,
        "Final learning rate of cosine_with_min_lr and warmup_stable_decay, as a share of the full rate.",
        at_least=0,
        at_most=1,
    )
    lr_scheduler_num_cycles: int = setting(1, "Restarts of cosine_with_restarts.", at_least=1)
    lr_scheduler_power: float = setting(1.0, "Power of the polynomial scheduler.", above=0)
    lr_scheduler_timescale: int | None = setting(
        None, "Steps over which inverse_sqrt falls. Unset: lr_warmup_steps, or 10 000.", at_least=1
    )
    lr_scheduler_type: str | None = setting(
        None,
        "Scheduler of another package instead of lr_scheduler: the full name of its class, module.Class. "
        "Without a module: one from torch.optim.lr_scheduler.",
    )
    lr_scheduler_args: list[str] = setting([], 'Arguments of lr_scheduler_type, each as "name=value".')
    gradient_accumulation_steps: int = setting(1, "Batches whose gradients are added up for one step.", at_least=1)
    max_grad_norm: float = setting(1.0, "Gradient norm above which gradients are clipped. 0: never.", at_least=0)
    max_skipped_steps: int = setting(
        5,
        "Number of steps in a row that may be skipped because of NaN or infinite values. One more stops the training.",
        at_least=0,
        shapes_training=False,
    )
    batch_passes: Literal["together", "one_by_one"] = setting(
        "together",
        "Make the predictions of a step together in two batches (fast), or one by one (least memory).",
        shapes_training=False,
    )
    seed: int = setting(
        42, "Seed of everything random. Two runs with the same seed are bit-identical on a CPU.", at_least=0
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run."""

    model: ModelSettings
    method: MethodSettings
    network: NetworkSettings
    concept_embeddings: ConceptEmbeddingSettings
    context: ContextSettings
    pure_learning: PureLearningSettings
    loss: LossSettings
    noise: NoiseSettings
    optimizer: OptimizerSettings
    saving: SavingSettings
    metadata: MetadataSettings
    samples: SampleSettings
    data: DataSettings

    def __post_init__(self) -> None:
        pure, embeddings = self.pure_learning, self.concept_embeddings
        if pure.merged and pure.extractor:
            raise ConfigError(
                "pure_learning: merged = true trains the extractor in stage 2, but extractor loads a saved one.",
                "Remove one of them.",
            )
        if not pure.guidance_lora and embeddings.concept_embeddings == "none":
            raise ConfigError(
                'pure_learning: guidance_lora = false and concept_embeddings = "none" leave the extractor without '
                "effect.",
                'Set guidance_lora = true, or concept_embeddings = "per_block".',
            )
        if not self.trains_anything:
            raise ConfigError(
                "pure_learning: eta and concept_loss_weight are both 0, so stage 2 would learn nothing.",
                "Set concept_loss_weight = 1 (the paper's).",
            )

    def of_method(self, own: type[Own]) -> Own:
        """A method's own settings, whichever method trains.

        Raises:
            TypeError: no registered method has these.
        """
        if not isinstance(self.method, own):
            raise TypeError(f"no method brings {own.__name__}")
        return self.method

    @property
    def trains_anything(self) -> bool:
        """Whether stage 2 has a loss that teaches the concept."""
        return self.pure_learning.eta > 0 or self.pure_learning.concept_loss_weight > 0

    @property
    def output_dir(self) -> Path:
        """Folder of all results."""
        return Path(self.saving.output_dir)

    @property
    def has_vectors(self) -> bool:
        """Whether the student has vectors in the blocks."""
        kinds = self.concept_embeddings
        return "none" not in (kinds.concept_embeddings, kinds.student_embeddings)

    @property
    def teaches_word(self) -> bool:
        """Whether the trigger word learns what the student's vectors do."""
        return self.has_vectors and self.pure_learning.word_weight > 0

    @property
    def needs_extractor(self) -> bool:
        """Whether stage 2 uses concept guidance or the embeddings of stage 1."""
        embeddings, pure = self.concept_embeddings, self.pure_learning
        inherits = embeddings.student_embeddings in ("own", "shared") and embeddings.concept_embeddings != "none"
        return pure.eta > 0 or inherits


SECTIONS: dict[str, type] = {
    "model": ModelSettings,
    "data": DataSettings,
    "method": MethodSettings,
    "network": NetworkSettings,
    "concept_embeddings": ConceptEmbeddingSettings,
    "context": ContextSettings,
    "pure_learning": PureLearningSettings,
    "loss": LossSettings,
    "noise": NoiseSettings,
    "optimizer": OptimizerSettings,
    "saving": SavingSettings,
    "metadata": MetadataSettings,
    "samples": SampleSettings,
}
"""Settings groups by section, without the methods' own settings; `library.config.groups` has all."""
