"""What a run keeps on the way: files of the student every N steps and of the best ones, states beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from library.config.settings import SavingSettings
from library.files.atomic import remove
from library.files.checkpoint import SavedState, write_state
from library.objectives import STUDENT

AT_STEP, BEST = "-step", "-best-step"
"""What stands between `output_name` and the number of the step."""


class Keeping:
    """Which steps of stage 2 leave something, and what of it stays.

    Args:
        folder: of the results.
    """

    def __init__(self, saving: SavingSettings, folder: Path) -> None:
        self.saving = saving
        self.folder = folder

    def due(self, step: int) -> bool:
        """Whether files are saved after this step, whatever it is worth."""
        every = self.saving.save_every_n_steps
        return bool(every and step % every == 0)

    def best(self, rows: Iterable[Mapping[str, Any]]) -> list[int]:
        """The `save_best_n` steps with the least validation loss, the best first; of equal ones the earlier."""
        losses = [(row["validation"], row["step"]) for row in rows if row["stage"] == STUDENT and "validation" in row]
        return [step for _, step in sorted(losses)[: self.saving.save_best_n or 0]]

    def state(self, step: int, state: SavedState) -> Path | None:
        """Keeps a state beside the files of this step, if that is wanted; returns its folder."""
        if not self.saving.save_state:
            return None
        folder = self.folder / f"{self.saving.output_name}{AT_STEP}{step:08d}-state"
        write_state(folder, state)
        return folder

    def drop_older(self, step: int) -> None:
        """Removes what was saved every N steps, and states beside it, as far as they are too old by now."""
        files, states = self.saving.save_last_n_steps, self.saving.save_last_n_steps_state
        states = files if states is None else states
        for path, number in self._saved(AT_STEP):
            last = states if path.is_dir() else files
            if last is not None and number < step - last:
                remove(path)

    def drop_worse(self, best: Iterable[int]) -> None:
        """Removes the files of steps that are not among the best any more."""
        kept = set(best)
        for path, number in self._saved(BEST):
            if number not in kept:
                remove(path)

    def _saved(self, kind: str) -> list[tuple[Path, int]]:
        """What was saved on the way, each with its step."""
        return list(_found(self.folder, self.saving.output_name + kind))


def saved_on_the_way(folder: Path, name: str) -> dict[Path, int]:
    """Files of the student that a run of this `output_name` has saved until now, each with its step."""
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
