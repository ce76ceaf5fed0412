"""`report.html`, `log.csv` and `training.png`: the results of a run, redrawn whenever there are new ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from library.parts.parts import Attached
from library.preflight.plan import Plan
from library.report.galleries import STRENGTHS, Gallery, galleries_of
from library.report.log import RunLog, read_log, write_csv
from library.report.page import Section, write_page
from library.report.phases import Phases
from library.report.plot import plot_log
from library.report.status import Status
from library.saving.keeping import saved_on_the_way
from library.terminal import say
from library.training.listeners import Listener
from library.training.sections import report_sections


class Report(Listener):
    """Collects a run's results and draws them.

    Args:
        done: steps of each stage that a resumed run continues from; None: a new run.

    Attributes:
        sections: of `report.html`, in order; see `library.report.page` for how to add one.
        galleries: the sheets that the report shows, by kind.
        files: that were saved, each with its step.
        loads: a line for each checked file that says where it loads.
    """

    def __init__(self, plan: Plan, log: RunLog, status: Status, phases: Phases, done: dict[str, int] | None) -> None:
        self.plan = plan
        self.folder = plan.settings.output_dir
        self.name = plan.settings.saving.output_name
        self.log = log
        self.status = status
        self.phases = phases
        self.galleries: dict[str, Gallery] = {}
        self.files: dict[Path, int] = {}
        self.loads: dict[Path, str] = {}
        if done is not None:
            self.galleries |= galleries_of(self.folder / "samples", done)
            self.files |= saved_on_the_way(self.folder, self.name)
        self.sections: list[Section] = report_sections(self)

    def settled(self, plan: Plan, parts: Attached) -> None:
        """Uses these settings from now on."""
        self.plan = plan

    def sheet_drawn(self, kind: str, gallery: Gallery, path: Path) -> None:
        """Replaces the last sheet of this kind."""
        self.galleries[kind] = gallery

    def strengths_drawn(self, gallery: Gallery) -> None:
        """Adds it to the sheets."""
        self.galleries[STRENGTHS] = gallery

    def file_checked(self, path: Path, line: str) -> None:
        """Shows the line next to the file."""
        self.loads[path] = line

    def section_made(self, section: Section) -> None:
        """Adds it right after the sheets."""
        self.sections.insert(1, section)

    def saved(self, files: Mapping[Path, str], step: int) -> None:
        """Notes the files, and draws again."""
        self.files |= dict.fromkeys(files, step)
        self.draw()

    def ended(self, error: BaseException | None) -> None:
        """Draws for the last time."""
        self.draw()

    def draw(self) -> None:
        """Redraws curves and report. If that fails, the run continues."""
        rows = read_log(self.log.path)
        try:
            write_csv(rows, self.folder / "log.csv")
            plot_log(rows, self.folder / "training.png")
            title = f"{self.name}: {', '.join(concept.trigger for concept in self.plan.config.concepts)}"
            write_page(self.folder / "report.html", title, self._lede(rows), self.sections)
            self.status.set(report="report.html")
        except Exception as error:  # a failed picture must never end the run
            say(f"WARNING: the report could not be written ({type(error).__name__}: {error}). The run continues.")

    def _lede(self, rows: list[dict[str, Any]]) -> str:
        if not rows:
            return "No step has been made yet."
        stage, step = rows[-1]["stage"], rows[-1]["step"]
        return f"{step} of {self.plan.stage_steps.get(stage, step)} steps of the {stage}. {self.status.sentence()}"
