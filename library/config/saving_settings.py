"""Settings of what is written: files of the student, states to go on from, caches and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from library.config.fields import setting
from library.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SavingSettings:
    """[saving]: what is written, where and when."""

    output_dir: str = setting("output", "Folder of all results.", shapes_training=False, holds="path")
    output_name: str = setting("purecc", "Begin of the names of all results.", shapes_training=False, holds="file name")
    save_precision: Literal["float", "fp16", "bf16"] = setting(
        "fp16", "Precision of the saved LoRA files.", shapes_training=False
    )
    save_formats: list[Literal["kohya", "diffusers", "onetrainer"]] = setting(
        ["kohya", "diffusers"],
        "Layouts of the saved LoRA, one file each: kohya for ComfyUI, Forge and reForge, diffusers for diffusers (and "
        "ComfyUI), onetrainer for SD.Next (and ComfyUI).",
        shapes_training=False,
    )
    save_every_n_steps: int | None = setting(
        None, "Also save the student's files every so many steps of stage 2.", at_least=1, shapes_training=False
    )
    save_every_n_epochs: int | None = setting(None, "The same in epochs.", at_least=1, shapes_training=False)
    save_last_n_steps: int | None = setting(
        None,
        "Of the files saved on the way, keep those of the last so many steps. Unset: all.",
        at_least=0,
        shapes_training=False,
    )
    save_last_n_epochs: int | None = setting(
        None,
        "Keep the last so many of the files that save_every_n_epochs saves, as in sd-scripts.",
        at_least=1,
        shapes_training=False,
    )
    save_best_n: int | None = setting(
        None,
        "Keep the student's files of the so many steps with the least validation loss, as NAME-best-step...; needs "
        "validation_split. Unset: none.",
        at_least=1,
        shapes_training=False,
    )
    save_state: bool = setting(
        False,
        "Keep a state beside all files that are saved every so many steps or epochs, and at the end: the folder to "
        "give to resume.",
        shapes_training=False,
    )
    save_state_on_train_end: bool = setting(
        False, "Keep the state when the run is done, to train on from it by resume.", shapes_training=False
    )
    save_last_n_steps_state: int | None = setting(
        None,
        "Of the states that save_state keeps, keep those of the last so many steps. Unset: as save_last_n_steps.",
        at_least=0,
        shapes_training=False,
    )
    save_last_n_epochs_state: int | None = setting(
        None, "Keep the last so many of these states. Unset: as save_last_n_epochs.", at_least=1, shapes_training=False
    )
    save_state_every_n_steps: int = setting(
        50, "Save all that a killed run needs to go on, every so many steps.", at_least=1, shapes_training=False
    )
    resume: str | None = setting(
        None,
        '"auto": go on where this run was stopped; a finished one stays as it is, or goes on to a larger '
        "max_train_steps. Or a state folder: go on from it, with max_train_steps and initial_step as they are set now.",
        shapes_training=False,
        holds="path",
    )
    overwrite: bool = setting(False, "Throw away the state of an unfinished run and start anew.", shapes_training=False)
    cache_dir: str = setting(
        "cache",
        "Folder of what is computed once: latents, text, replayed pictures.",
        shapes_training=False,
        holds="path",
    )
    max_cache_gb: float | None = setting(
        None,
        "GB that the cache has at most after a command that uses it: what was used longest ago goes. Unset: all stays.",
        above=0,
        shapes_training=False,
    )
    log_with: Literal["tensorboard", "wandb", "all", "none"] = setting(
        "tensorboard",
        "Where losses are logged besides log.jsonl and log.csv: TensorBoard, Weights & Biases, both, or neither. With "
        "offline, wandb keeps its files in the output folder for wandb sync.",
        shapes_training=False,
    )
    logging_dir: str | None = setting(
        None,
        "Folder of TensorBoard's files; each run has one of its own in it, log_prefix and output_name. Unset: "
        "tensorboard in the output folder.",
        shapes_training=False,
        holds="path",
    )
    log_prefix: str | None = setting(None, "Begin of that folder's name.", shapes_training=False, holds="file name")
    log_tracker_name: str = setting("purecc", "Project of the run at wandb.", shapes_training=False)
    wandb_run_name: str | None = setting(None, "Name of the run at wandb. Unset: output_name.", shapes_training=False)
    log_tracker_config: str | None = setting(
        None, "TOML file whose table [wandb] holds more arguments of wandb.init.", shapes_training=False, holds="path"
    )
    log_config: bool = setting(False, "Settings are sent along to wandb, paths included.", shapes_training=False)

    @property
    def max_cache_bytes(self) -> int | None:
        """`max_cache_gb` in bytes."""
        return None if self.max_cache_gb is None else int(self.max_cache_gb * 1e9)

    def __post_init__(self) -> None:
        if not self.save_formats or len(set(self.save_formats)) < len(self.save_formats):
            raise ConfigError(
                f"saving: save_formats is {self.save_formats}; it must name one layout or more, each once.",
                'Set save_formats = ["kohya", "diffusers"].',
            )
