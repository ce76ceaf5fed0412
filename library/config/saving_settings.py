"""Settings for files: the student's, states to resume from, caches and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from library.config.family_settings import usual_layouts
from library.config.fields import setting
from library.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SavingSettings:
    """[saving]: what is written, where and when."""

    output_dir: str = setting("output", "Folder for all results.", shapes_training=False, holds="path")
    output_name: str = setting(
        "purecc", "Start of the file names of all results.", shapes_training=False, holds="file name"
    )
    save_precision: Literal["float", "fp16", "bf16"] = setting(
        "fp16", "Precision of the saved LoRA files.", shapes_training=False
    )
    save_formats: list[str] = setting(
        usual_layouts, "Layouts of the saved LoRA, one file each: {layouts}.", shapes_training=False
    )
    save_every_n_steps: int | None = setting(
        None, "Save a checkpoint of the student every N steps of stage 2.", at_least=1, shapes_training=False
    )
    save_every_n_epochs: int | None = setting(
        None, "Save a checkpoint of the student every N epochs.", at_least=1, shapes_training=False
    )
    save_last_n_steps: int | None = setting(
        None,
        "Keep only the checkpoints of the last N steps. Unset: keep all.",
        at_least=0,
        shapes_training=False,
    )
    save_last_n_epochs: int | None = setting(
        None,
        "Keep only the last N checkpoints of save_every_n_epochs, as in sd-scripts.",
        at_least=1,
        shapes_training=False,
    )
    save_best_n: int | None = setting(
        None,
        "Keep the N checkpoints with the lowest validation loss, as NAME-best-step... Needs validation_split. "
        "Unset: none.",
        at_least=1,
        shapes_training=False,
    )
    save_state: bool = setting(
        False,
        "Keep a state for each checkpoint and at the end. You can resume from its folder.",
        shapes_training=False,
    )
    save_state_on_train_end: bool = setting(
        False, "Keep the state at the end, so that you can train longer later.", shapes_training=False
    )
    save_last_n_steps_state: int | None = setting(
        None,
        "Keep only the states of the last N steps. Unset: as save_last_n_steps.",
        at_least=0,
        shapes_training=False,
    )
    save_last_n_epochs_state: int | None = setting(
        None, "Keep only the last N states. Unset: as save_last_n_epochs.", at_least=1, shapes_training=False
    )
    save_state_every_n_steps: int = setting(
        50, "Every N steps, save what a killed run needs to resume.", at_least=1, shapes_training=False
    )
    resume: str | None = setting(
        None,
        '"auto" continues where this run was stopped. A finished run stays as it is, or continues to a larger '
        "max_train_steps. A state folder continues from that state, with max_train_steps and initial_step as "
        "they are now.",
        shapes_training=False,
        holds="path",
    )
    overwrite: bool = setting(
        False, "Discard the state of an unfinished run and start from scratch.", shapes_training=False
    )
    cache_dir: str = setting(
        "cache",
        "Folder for what is computed once: latents, text embeddings, replayed images.",
        shapes_training=False,
        holds="path",
    )
    max_cache_gb: float | None = setting(
        None,
        "Largest size of the cache in GB after a command that uses it. The entries unused for the longest "
        "time are deleted. Unset: no limit.",
        above=0,
        shapes_training=False,
    )
    log_with: Literal["tensorboard", "wandb", "all", "none"] = setting(
        "tensorboard",
        "Where to log besides log.jsonl and log.csv: TensorBoard, Weights & Biases, both (all) or neither. "
        "With offline, wandb keeps its files in the output folder for wandb sync.",
        shapes_training=False,
    )
    logging_dir: str | None = setting(
        None,
        "Folder for TensorBoard's files. Each run has its own folder in it, named by log_prefix and "
        "output_name. Unset: tensorboard in the output folder.",
        shapes_training=False,
        holds="path",
    )
    log_prefix: str | None = setting(
        None, "Start of the name of a run's folder in logging_dir.", shapes_training=False, holds="file name"
    )
    log_tracker_name: str = setting("purecc", "Project name at wandb.", shapes_training=False)
    wandb_run_name: str | None = setting(None, "Name of the run at wandb. Unset: output_name.", shapes_training=False)
    log_tracker_config: str | None = setting(
        None, "TOML file whose table [wandb] holds more arguments for wandb.init.", shapes_training=False, holds="path"
    )
    log_config: bool = setting(False, "Send the settings to wandb, including paths.", shapes_training=False)

    @property
    def max_cache_bytes(self) -> int | None:
        """`max_cache_gb` in bytes."""
        return None if self.max_cache_gb is None else int(self.max_cache_gb * 1e9)

    def __post_init__(self) -> None:
        if not self.save_formats or len(set(self.save_formats)) < len(self.save_formats):
            raise ConfigError(
                f"saving: save_formats is {self.save_formats}; it must contain at least one layout, each only once.",
                'Set save_formats = ["kohya", "diffusers"].',
            )
