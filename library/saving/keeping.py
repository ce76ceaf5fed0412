"""What a run keeps during training: the student's files every N steps and of the best steps, with states."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from library.config.settings import SavingSettings
from library.files.atomic import remove
from library.files.checkpoint import SavedState, write_state
from library.predictions import STUDENT

AT_STEP, BEST = "-step", "-best-step"
"""The text between `output_name` and the number of the step."""


class Keeping:
    """Which steps of stage 2 save files, and which files stay.

    Args:
        folder: of the results.
    """

    def __init__(self, saving: SavingSettings, folder: Path) -> None:
        self.saving = saving
        self.folder = folder

    def due(self, step: int) -> bool:
        """Whether files are saved after this step, whatever its validation loss."""
        every = self.saving.save_every_n_steps
        return bool(every and step % every == 0)

    def best(self, rows: Iterable[Mapping[str, Any]]) -> list[int]:
        """The `save_best_n` steps with the lowest validation loss, best first; the earlier one of equal ones."""
        losses = [(row["validation"], row["step"]) for row in rows if row["stage"] == STUDENT and "validation" in row]
        return [step for _, step in sorted(losses)[: self.saving.save_best_n or 0]]

    def state(self, step: int, state: SavedState) -> Path | None:
        """Keeps a state next to the files of this step, if asked for; returns its folder."""
        if not self.saving.save_state:
            return None
        folder = self.folder / f"{self.saving.output_name}{AT_STEP}{step:08d}-state"
        write_state(folder, state)
        return folder

    def drop_older(self, step: int) -> None:
        """Removes files saved every N steps, and their states, once they are too old."""
        files, states = self.saving.save_last_n_steps, self.saving.save_last_n_steps_state
        states = files if states is None else states
        for path, number in self._saved(AT_STEP):
            last = states if path.is_dir() else files
            if last is not None and number < step - last:
                remove(path)

    def drop_worse(self, best: Iterable[int]) -> None:
        """Removes the files of steps that are no longer among the best."""
        kept = set(best)
        for path, number in self._saved(BEST):
            if number not in kept:
                remove(path)

    def _saved(self, kind: str) -> list[tuple[Path, int]]:
        """The files saved during training, each with its step."""
        return list(_found(self.folder, self.saving.output_name + kind))


def saved_on_the_way(folder: Path, name: str) -> dict[Path, int]:
    """The student's files that a run of this `output_name` has saved so far, each with its step."""
    if not folder.is_dir():
        return {}
    both = [*_found(folder, name + AT_STEP), *_found(folder, name + BEST)]
    return {path: step for path, step in sorted(both) if path.is_file()}


def _found(folder: Path, begin: str) -> Iterator[tuple[Path, int]]:
    pattern = re.compile(re.escape(begin) + r"(\d{8})(-state|(_\w+)?\.safetensors)")
    for path in folder.iterdir():
        match = pattern.fullmatch(path.name)
        if match:
            yield path, int(match[1])
