"""The contact sheets of a run, drawn when it asks for them; a failed sheet never ends the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from library.drawing.sheet_maker import SheetMaker
from library.dual_branch_scheduler import Branch
from library.errors import StorageError, in_words
from library.parts.parts import Attached
from library.preflight.plan import Plan
from library.report.galleries import Gallery
from library.report.progress import bar_over
from library.report.sheet import SheetRow
from library.terminal import say
from library.training.listeners import Listener, Listeners
from library.training.stage import Stage


class ContactSheets(Listener):
    """Draws sheets into the folder `samples`.

    Args:
        listeners: notified of each drawn sheet.
    """

    def __init__(self, plan: Plan, listeners: Listeners) -> None:
        self.plan = plan
        self.settings = plan.settings.samples
        self.name = plan.settings.saving.output_name
        self.folder = plan.settings.output_dir / "samples"
        self.listeners = listeners
        self._last = time.monotonic()
        self._newest: list[SheetRow] = []

    def prepared(self, parts: Attached) -> None:
        """Makes it ready to draw."""
        self.maker = SheetMaker(parts, self.plan.samples, self.plan.sheet_size)

    def settled(self, plan: Plan, parts: Attached) -> None:
        """Uses these settings from now on."""
        self.plan = plan
        self.settings = plan.settings.samples
        self.maker.parts = parts

    def due(self, done: int) -> bool:
        """Whether a sheet of the student is due after N steps, or because enough minutes have passed."""
        steps, minutes = self.settings.sample_every_n_steps, self.settings.sample_every_n_minutes
        passed = (time.monotonic() - self._last) / 60
        return bool((steps and done % steps == 0) or (minutes and passed >= minutes))

    def extractor(self, branch: Branch, steps: int) -> None:
        """Draws what stage 1 learned in N steps."""
        columns = {
            f"extractor of {concept}": replace(branch, default=adapter) for concept, adapter in branch.adapters.items()
        }
        self._sheet("extractor", f"Stage 1: the extractor after {steps} steps", columns, "extractor.png")

    def student(self, branch: Branch, stage: Stage, beside: Mapping[str, Branch] | None = None) -> list[SheetRow]:
        """Draws what the student has learned so far; no rows if that fails.

        Args:
            beside: further columns, by heading.
        """
        title = f"{self.name}: the student after {stage.done} of {stage.steps} steps"
        columns = {"student": branch, **(beside or {})}
        self._newest = self._sheet("student", title, columns, f"student_{stage.done:06d}.png")
        return self._newest

    def student_begins(self, branch: Branch, stage: Stage) -> None:
        """Draws the student before it has learned, if the settings ask for that."""
        if self.settings.sample_at_first:
            self.student(branch, stage)

    def student_finished(self, parts: Attached, branch: Branch, files: Mapping[Path, str]) -> None:
        """Draws the finished student at several strengths of its LoRA."""
        strengths = self.settings.sample_strengths
        if not strengths:
            return
        title, path = f"{self.name}: strengths of the LoRA", self.folder / "strengths.png"
        rows = self._drawn(path, lambda: self.maker.strengths(path, title, branch, strengths, self._newest))
        if rows:
            columns = ["pretrained", *(f"{strength:g}" for strength in strengths)]
            self.listeners.tell(Listener.strengths_drawn, Gallery(title, columns, rows))

    def _sheet(self, kind: str, title: str, columns: Mapping[str, Branch], file: str) -> list[SheetRow]:
        self._last = time.monotonic()
        path, prompts = self.folder / file, self.settings.sample_prompts

        def draw() -> list[SheetRow]:
            if prompts:
                self.maker.follow(prompts)
            return self.maker.make(path, title, dict(columns), bar_over("sheet"))

        rows = self._drawn(path, draw)
        if rows:
            self.listeners.tell(Listener.sheet_drawn, kind, Gallery(title, ["pretrained", *columns], rows), path)
        return rows

    def _drawn(self, path: Path, draw: Callable[[], list[SheetRow]]) -> list[SheetRow]:
        """The rows of a sheet. If drawing fails, that is reported and there are none.

        Raises:
            StorageError: the disk is full.
        """
        try:
            with self.listeners.phase("sheets"):
                return draw()
        except StorageError:
            raise
        except Exception as error:  # a failed picture must never end the run
            say(f"WARNING: the sheet {path.name} could not be drawn ({in_words(error)}). The run continues without it.")
            self.plan.parts.model.release_vae()
            return []
