"""Every setting of a run, once. Files, command line, help and checks are all read from here.

Names are those of kohya's sd-scripts where it has the setting. In a TOML file a setting may stand at the top or in any
section: section names are for the reader, as in sd-scripts. The defaults are the preset `presets/pure.toml`.
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
        "A vector per block and token (the paper's), one shared by all blocks, one put in at the first block, or none.",
    )
    embedding_positions: Literal["clip_and_t5", "clip"] = setting(
        "clip_and_t5", "Which of the trigger's tokens are replaced: CLIP's and T5's, or CLIP's alone."
    )
    student_embeddings: Literal["own", "fresh", "shared", "none"] = setting(
        "fresh",
        "The student's concept embeddings: its own copy of the extractor's that keeps learning, its own from the class "
        "word's states, the extractor's frozen ones, or none (the plain LoRA and the trigger word carry the concept).",
    )

    @property
    def every_stream(self) -> bool:
        """Whether the trigger's tokens in all of the model's text streams get vectors, or those in the first alone."""
        return self.embedding_positions != "clip"


@dataclass(frozen=True, kw_only=True)
class PureLearningSettings:
    """[pure_learning]: the PureCC objective of both stages."""

    eta: float = setting(0.5, "Weight of the pure loss, L_PureCC, beside the concept loss. 0 turns it off.", at_least=0)
    lambda_: Literal["adaptive"] | float = setting(
        "adaptive", 'Scale of the concept guidance: "adaptive" is lambda* (Eq. 12), a number fixes it.', name="lambda"
    )
    lambda_min: float | None = setting(None, "Clamp lambda* from below, for instance at 0. Unset: no clamp.")
    v_original: Literal["live", "detached", "frozen"] = setting(
        "detached",
        "Where the prediction for the base prompt in L_PureCC comes from: the student with gradient, the student "
        "without, or the pretrained model.",
    )
    guidance_against: Literal["null", "class"] = setting(
        "class", "What R(target) is measured against: the empty prompt (Eq. 8) or the class without [V] (ours)."
    )
    guidance_focus: float = setting(
        1.0,
        "Share of each picture where R(target) is strongest and kept; 1 keeps all of it (ours).",
        above=0,
        at_most=1,
    )
    guidance_lora: bool = setting(
        True, "Extractor's LoRA on while R(target) is computed; false leaves its embeddings alone (authors' release)."
    )
    concept_loss_weight: float = setting(
        1.0, "Weight of the concept loss, L_CC, in stage 2. 0 learns from the guidance alone.", at_least=0
    )
    anchor_weight: float = setting(
        3.0, "Ties the student on base prompts of a subject to the pretrained model (ours). 0: no tie.", at_least=0
    )
    extractor_anchor_weight: float = setting(
        1.0, "The same tie for the extractor in stage 1, which keeps its guidance clean (ours).", at_least=0
    )
    replay_images: int = setting(
        96, "Pictures that the pretrained model draws once, for the student to stay faithful to (ours).", at_least=0
    )
    replay_weight: float = setting(
        5.0, "Weight of that tie to the pretrained model on replayed pictures. 0 turns replay off.", at_least=0
    )
    replay_eta: float = setting(
        0.0,
        "Weight of L_PureCC on replayed pictures, with [V] in their prompts: the concept where it never was (ours).",
        at_least=0,
    )
    extractor_replay_weight: float = setting(
        0.0, "The same tie as replay_weight for the extractor in stage 1 (ours).", at_least=0
    )
    surroundings_weight: float = setting(
        2.0,
        "Keeps what [V] adds to replayed pictures of the class inside of it: weight of a tie to the pretrained model "
        "outside of where the class is (ours). 0 turns it off. For subjects.",
        at_least=0,
    )
    word_weight: float = setting(
        3.0,
        "Teaches the LoRA to do by the trigger word alone what it does with the student's vectors: weight, at the end "
        "of stage 2, of a tie between the two predictions; it grows from a tenth (ours). The LoRA alone is then shown "
        "and measured. 0: the vectors carry the concept.",
        at_least=0,
    )
    ties: Literal["turns", "all"] = setting(
        "turns",
        "What a step has beside the concept loss: one of the other losses, in turns, weighted so that steps learn on "
        "average what they learn from all of them (ours), or all of them.",
    )
    prior_loss_weight: float | None = setting(
        None,
        "Weight of DreamBooth's prior preservation, plain flow matching: on regularisation pictures (is_reg; unset: 1) "
        "or, where there are none, on the replayed pictures (unset: 0).",
        at_least=0,
    )
    replay_prompts: str | None = setting(
        None,
        "Text file with one prompt a line for the replayed pictures. Unset: prompts made from the class words.",
        holds="path",
    )
    replay_sample_steps: int = setting(28, "Sampling steps of a replayed picture.", at_least=1)
    merged: bool = setting(False, "No stage 1: the extractor trains beside the student (the paper's ablation).")
    extractor: str | None = setting(
        None, "A saved extractor to start stage 2 from, instead of training one.", holds="path"
    )


@dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """[noise]: which noise levels training looks at."""

    weighting_scheme: Literal["logit_normal", "mode", "uniform"] = setting(
        "logit_normal", "Density that noise levels are drawn from. The loss itself is not weighted."
    )
    logit_mean: float = setting(0.0, "Mean of the logit-normal density.")
    logit_std: float = setting(1.0, "Standard deviation of the logit-normal density.", above=0)
    mode_scale: float = setting(1.29, "Scale of the mode density.")
    training_shift: float = setting(1.0, "Above 1 looks more at strong noise.", above=0)
    min_timestep: int = setting(0, "Least noise that training looks at, of 1000.", at_least=0, at_most=999)
    max_timestep: int = setting(1000, "Most noise that training looks at, of 1000.", at_least=1, at_most=1000)

    def __post_init__(self) -> None:
        if self.min_timestep >= self.max_timestep:
            raise ConfigError(
                f"min_timestep is {self.min_timestep}, max_timestep {self.max_timestep}; it must be less."
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """[optimizer]: how long, how fast and with what."""

    extractor_train_steps: int = setting(400, "Steps of stage 1, the representation extractor.", at_least=0)
    max_train_steps: int = setting(400, "Steps of stage 2, the student.", at_least=0)
    max_train_epochs: int | None = setting(None, "Epochs of stage 2, instead of max_train_steps.", at_least=1)
    initial_step: int | None = setting(
        None,
        "Stage 2 counts its steps from here, so it makes so many fewer. For a student that has learned before, by "
        "network_weights or resume. The learning rates' schedule begins anew unless a state is resumed.",
        at_least=0,
    )
    initial_epoch: int | None = setting(
        None, "The same in epochs, the first of which is 1. initial_step counts, if both are set.", at_least=1
    )
    skip_until_initial_step: bool = setting(
        False,
        "With initial_step: pictures, noise and prompts go on as if the steps before had been made here. Off: they "
        "begin anew.",
    )
    ema_decay: float | None = setting(
        None,
        "Keep an exponential moving average of the student, in which each step counts 1 - ema_decay (in the first "
        "steps more): it is what is saved, drawn and measured. Such as 0.99. Unset: none.",
        above=0,
        at_most=0.99999,
    )
    learning_rate: float = setting(1e-4, "Learning rate of the LoRA.", at_least=0)
    embedding_lr: float = setting(
        1e-2,
        "Learning rate of the concept embeddings, as a share of the size of the states that they replace: 0.01 is one "
        "percent a step (textual_inversion: of its words, as it is).",
        at_least=0,
    )
    extractor_learning_rate: float | None = setting(None, "The LoRA's in stage 1. Unset: learning_rate.", at_least=0)
    extractor_embedding_lr: float | None = setting(None, "The embeddings' in stage 1. Unset: embedding_lr.", at_least=0)
    optimizer_type: str = setting(
        "AdamW",
        "AdamW, AdamW8bit, PagedAdamW8bit, Prodigy, AdamWScheduleFree ... by sd-scripts' names, one of torch.optim, "
        "or the full name of a class, module.Class.",
    )
    optimizer_args: list[str] = setting([], 'Arguments of the optimizer, each "name=value".')
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
    ] = setting("constant", "How the learning rates change over a stage.")
    lr_warmup_steps: int | float = setting(
        0, "Steps over which the learning rates rise from 0; below 1, that share of a stage.", at_least=0
    )
    lr_decay_steps: int | float = setting(
        0, "Steps over which warmup_stable_decay falls at the end; below 1, that share of a stage.", at_least=0
    )
    lr_scheduler_min_lr_ratio: float = setting(
        0.0, "Where cosine_with_min_lr and warmup_stable_decay end, as a share of the rate.", at_least=0, at_most=1
    )
    lr_scheduler_num_cycles: int = setting(1, "Restarts of cosine_with_restarts.", at_least=1)
    lr_scheduler_power: float = setting(1.0, "Power of the polynomial scheduler.", above=0)
    lr_scheduler_timescale: int | None = setting(
        None, "Steps over which inverse_sqrt falls. Unset: lr_warmup_steps, or 10 000.", at_least=1
    )
    lr_scheduler_type: str | None = setting(
        None,
        "A schedule of another package instead of lr_scheduler, the full name of its class, module.Class; without a "
        "module, one of torch.optim.lr_scheduler.",
    )
    lr_scheduler_args: list[str] = setting([], 'Arguments of that schedule, each "name=value".')
    gradient_accumulation_steps: int = setting(1, "Batches whose gradients make one step.", at_least=1)
    max_grad_norm: float = setting(1.0, "Length the gradient is clipped to. 0: not clipped.", at_least=0)
    max_skipped_steps: int = setting(
        5,
        "Steps in a row that are skipped because their loss or gradient is no number; at one more, training stops.",
        at_least=0,
        shapes_training=False,
    )
    batch_passes: Literal["together", "one_by_one"] = setting(
        "together",
        "The predictions of a step in two batches (fast), or one after the other (least memory).",
        shapes_training=False,
    )
    seed: int = setting(42, "Everything random follows from it: two runs on a CPU are equal to the bit.", at_least=0)


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
                "pure_learning: merged = true trains the extractor in stage 2, but extractor names a saved one.",
                "Take one of the two out.",
            )
        if pure.lambda_min is not None and pure.lambda_ != "adaptive":
            raise ConfigError(
                f"pure_learning: lambda_min clamps lambda*, but lambda is fixed at {pure.lambda_}.",
                'Take lambda_min out, or set lambda = "adaptive".',
            )
        if not pure.guidance_lora and embeddings.concept_embeddings == "none":
            raise ConfigError(
                'pure_learning: guidance_lora = false and concept_embeddings = "none" leave nothing of the extractor.',
                'Set guidance_lora = true, or concept_embeddings = "per_block".',
            )
        if not self.trains_anything:
            raise ConfigError(
                "pure_learning: eta and concept_loss_weight are both 0, so stage 2 would learn nothing.",
                "Set concept_loss_weight = 1 (the paper's).",
            )

    def of_method(self, own: type[Own]) -> Own:
        """The settings that a method brings, whichever method trains.

        Raises:
            TypeError: no registered method brings these.
        """
        if not isinstance(self.method, own):
            raise TypeError(f"no method brings {own.__name__}")
        return self.method

    @property
    def trains_anything(self) -> bool:
        """Whether stage 2 has a loss that teaches."""
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
        """Whether the trigger word learns to do what the student's vectors do."""
        return self.has_vectors and self.pure_learning.word_weight > 0

    @property
    def needs_extractor(self) -> bool:
        """Whether stage 2 uses concept guidance or the embeddings of stage 1."""
        embeddings, pure = self.concept_embeddings, self.pure_learning
        inherits = embeddings.student_embeddings in ("own", "shared") and embeddings.concept_embeddings != "none"
        return pure.eta > 0 or pure.replay_eta > 0 or inherits


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
"""Settings groups by section, without what each method brings: `library.config.groups` has all."""
