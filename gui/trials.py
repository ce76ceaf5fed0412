"""Pictures drawn from a finished run on request by `purecc_generate.py`: a prompt and a strength."""

from __future__ import annotations

from dataclasses import dataclass

from gui import asked, children
from gui.delivery import lora_of
from gui.places import GENERATE, existing
from gui.runs import Run
from library.errors import ConfigError

FOLDER = "trials"


@dataclass(frozen=True, kw_only=True)
class Trial(asked.Asked):
    """A prompt that was tried; its result is a sheet."""

    prompt: str
    strength: float
    lora: str

    @property
    def result(self) -> str:
        return f"{self.stem}.png"


def trials_of(run: Run) -> list[Trial]:
    """All of a run, newest first."""
    return asked.all_of(Trial, run.folder / FOLDER)


def state_of(run: Run, trial: Trial) -> tuple[str, str | None]:
    """Its status, and why it failed."""
    return asked.state_of(run.folder / FOLDER, trial)


def begin(run: Run, prompt: str, strength: float, step: int | None) -> Trial:
    """Draws a prompt with and without the LoRA.

    Raises:
        ConfigError: no prompt, or nothing is saved.
    """
    prompt = " ".join(prompt.split())[:1000]
    if not prompt or not -5 <= strength <= 5:
        raise ConfigError("There is nothing to draw.", "Write a prompt; [V] stands for the trigger.")
    lora, folder = lora_of(run, step), run.folder / FOLDER
    config = existing(run.folder, "config.toml")

    def command(trial: Trial) -> list[str]:
        return children.command_of(
            GENERATE, "--config_file", config, f"--lora={run.folder / lora}", f"--lora_scale={strength}",
            f"--output={folder / trial.result}", f"--prompt={prompt}",
        )  # fmt: skip

    return asked.begin(folder, Trial(number=0, prompt=prompt, strength=strength, lora=lora), command)
