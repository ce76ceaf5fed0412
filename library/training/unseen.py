"""The observer of a run's other processes: they step along, and neither show nor write anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from library.dual_branch_scheduler import Branch
from library.report.sheet import SheetRow
from library.training.observer import Observer
from library.training.stage import Stage


class Unseen(Observer):
    """See `Observer` for what each of these would show."""

    def open(self, done: dict[str, int] | None) -> None:
        """No log."""

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """No report."""
        yield

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Not measured."""
        yield

    def learned_context(self, seconds: float) -> None:
        """Not noted."""

    def progress(self, name: str) -> Any:
        """No bar."""

        def wrap(items: Iterable) -> Iterable:
            return items

        return wrap

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """No bar."""
        yield

    def step(self, row: dict[str, Any], seconds: float) -> None:
        """Not logged."""

    def sheet_of_extractor(self, branch: Branch, steps: int) -> None:
        """Not drawn."""

    def sheet_of_student(self, branch: Branch, stage: Stage) -> list[SheetRow]:
        """Not drawn."""
        return []

    def sheet_of_strengths(self, branch: Branch) -> None:
        """Not drawn."""

    def saved(self, files: Mapping[Path, str], step: int) -> None:
        """Not noted."""

    def saved_state(self, folder: Path) -> None:
        """Not noted."""
