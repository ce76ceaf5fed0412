"""What a run notes when it is done, so that the same command with --resume auto says so instead of training again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from library.config.saving_settings import SavingSettings
from library.errors import ConfigError
from library.files.atomic import write_text
from library.files.checkpoint import check_same

MAY_GROW = frozenset({"max_train_steps", "max_train_epochs"})
"""Settings that may be others than those of a finished run that is to continue: how long it is."""


@dataclass(frozen=True)
class Finished:
    """A finished run, as it was noted.

    Args:
        steps: of the student.
        settings: those that shape training.
        files: names of the student's files in the output folder.
    """

    steps: int
    settings: dict[str, Any]
    files: list[str]

    def is_all(self, folder: Path, steps: int) -> bool:
        """Whether nothing is left to do of a run: all its steps are made, and its files still exist."""
        return all((folder / name).is_file() for name in self.files) and steps <= self.steps


def note_finished(saving: SavingSettings, steps: int, settings: dict[str, Any], files: Iterable[Path]) -> None:
    """Notes that the run is done.

    Args:
        steps, files: of the student.
        settings: those that shape training.
    """
    note = Finished(steps, settings, [path.name for path in files])
    write_text(_place(saving), json.dumps(asdict(note), indent=1, ensure_ascii=False) + "\n")


def forget_finished(saving: SavingSettings) -> None:
    """The run starts from scratch."""
    _place(saving).unlink(missing_ok=True)


def finished(saving: SavingSettings, settings: dict[str, Any]) -> Finished | None:
    """The finished run that is in the output folder under this name; None if there is none.

    Args:
        settings: those that shape training.

    Raises:
        ConfigError: it was trained with other settings.
    """
    try:
        note = Finished(**json.loads(_place(saving).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):  # not there, or not ours
        return None
    check_same(note.settings, settings, MAY_GROW)
    return note


def what_to_do(saving: SavingSettings, note: Finished, state_kept: bool) -> str:
    """What is shown instead of training."""
    longer = (
        "raise max_train_steps to continue from its last state"
        if state_kept
        else "start another run from its LoRA with network_weights; no state was kept (save_state_on_train_end)"
    )
    return (
        f"{Path(saving.output_dir)} contains this run, and it is finished: {saving.output_name}, {note.steps} steps of "
        f"the student. There is nothing left to do.\n  To train longer: {longer}. To start from scratch: --overwrite."
    )


def no_way_on(saving: SavingSettings, note: Finished, steps: int) -> ConfigError:
    """It is to be longer than it was, and left no state to continue from."""
    return ConfigError(
        f"{Path(saving.output_dir)} contains this run, finished after {note.steps} steps of the student. To train "
        f"{steps} steps, it needs its last state, which was not kept.",
        "Set save_state_on_train_end and start from scratch with --overwrite, or set network_weights to its LoRA and "
        "choose another output_dir.",
    )


def _place(saving: SavingSettings) -> Path:
    return Path(saving.output_dir) / f"{saving.output_name}-done.json"
