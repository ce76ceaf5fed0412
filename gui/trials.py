"""Pictures that the owner asks of a finished run: a prompt, a strength, drawn by `purecc_generate.py`."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gui import children
from gui.delivery import lora_of
from gui.forecasts import sentence_of
from gui.places import GENERATE, existing
from gui.runs import Run
from library.errors import ConfigError
from library.files.atomic import write_text

FOLDER = "trials"
MOST_SHOWN = 30
_beginning = threading.Lock()


@dataclass(frozen=True)
class Trial:
    """A prompt that was tried.

    Args:
        number: which it is, from 1.
        at: seconds since 1970 when it was asked for; `pid` the process that draws it.
    """

    number: int
    prompt: str
    strength: float
    lora: str
    at: float = 0.0
    pid: int = 0

    @property
    def picture(self) -> str:
        """The name of its sheet."""
        return f"{self.number:03d}.png"


def trials_of(run: Run) -> list[Trial]:
    """All of a run, the newest first."""
    found = []
    for file in (run.folder / FOLDER).glob("*.json"):
        with suppress(OSError, ValueError, TypeError):
            found.append(Trial(**json.loads(file.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda one: -one.number)[:MOST_SHOWN]


def state_of(run: Run, trial: Trial) -> tuple[str, str | None]:
    """ "done", "drawing" or "failed", and why it failed."""
    folder = run.folder / FOLDER
    if (folder / trial.picture).is_file():
        return "done", None
    if children.lives(trial.pid, trial.at):
        return "drawing", None
    return "failed", sentence_of(folder / f"{trial.number:03d}.log") or "It ended without a picture."


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
    with _beginning:
        folder.mkdir(exist_ok=True)
        number = max((one.number for one in trials_of(run)), default=0) + 1
        name = f"{number:03d}"
        words = children.command_of(
            GENERATE, "--config_file", config, f"--lora={run.folder / lora}", f"--lora_scale={strength}",
            f"--output={folder / f'{name}.png'}", f"--prompt={prompt}",
        )  # fmt: skip
        at = time.time()
        child = children.start(words, folder / f"{name}.log")
        trial = Trial(number, prompt, strength, lora, at, child.pid)
        write_text(Path(folder / f"{name}.json"), json.dumps(asdict(trial), ensure_ascii=False))
    return trial
