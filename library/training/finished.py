"""What a run notes when it is done, so that the same command with --resume auto says so instead of training again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from library.errors import ConfigError
from library.files.atomic import write_text
from library.files.checkpoint import check_same
from library.objectives import STUDENT
from library.preflight.plan import Plan

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

    def is_all(self, plan: Plan) -> bool:
        """Whether nothing is left to do of this plan: all its steps are made, and its files still exist."""
        here = all((plan.settings.output_dir / name).is_file() for name in self.files)
        return here and plan.stage_steps[STUDENT] <= self.steps


def note_finished(plan: Plan, settings: dict[str, Any], files: Iterable[Path]) -> None:
    """Notes that the run is done.

    Args:
        settings: those that shape training.
        files: of the student.
    """
    note = Finished(plan.stage_steps[STUDENT], settings, [path.name for path in files])
    write_text(_place(plan), json.dumps(asdict(note), indent=1, ensure_ascii=False) + "\n")


def forget_finished(plan: Plan) -> None:
    """The run starts from scratch."""
    _place(plan).unlink(missing_ok=True)


def finished(plan: Plan, settings: dict[str, Any]) -> Finished | None:
    """The finished run that is in the output folder under this plan's name; None if there is none.

    Args:
        settings: those that shape training.

    Raises:
        ConfigError: it was trained with other settings.
    """
    try:
        note = Finished(**json.loads(_place(plan).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):  # not there, or not ours
        return None
    check_same(note.settings, settings, MAY_GROW)
    return note


def what_to_do(plan: Plan, note: Finished, state_kept: bool) -> str:
    """What is shown instead of training."""
    name, folder = plan.settings.saving.output_name, plan.settings.output_dir
    longer = (
        "raise max_train_steps to continue from its last state"
        if state_kept
        else "start another run from its LoRA with network_weights; no state was kept (save_state_on_train_end)"
    )
    return (
        f"{folder} contains this run, and it is finished: {name}, {note.steps} steps of the student. There is nothing "
        f"left to do.\n  To train longer: {longer}. To start from scratch: --overwrite."
    )


def no_way_on(plan: Plan, note: Finished) -> ConfigError:
    """It is to be longer than it was, and left no state to continue from."""
    return ConfigError(
        f"{plan.settings.output_dir} contains this run, finished after {note.steps} steps of the student. To train "
        f"{plan.stage_steps[STUDENT]} steps, it needs its last state, which was not kept.",
        "Set save_state_on_train_end and start from scratch with --overwrite, or set network_weights to its LoRA and "
        "choose another output_dir.",
    )


def _place(plan: Plan) -> Path:
    return plan.settings.output_dir / f"{plan.settings.saving.output_name}-done.json"
