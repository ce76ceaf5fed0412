"""What follows a run while it trains: log, status file, progress bar, and a word about each skipped step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from library.report.galleries import Gallery
from library.report.log import RunLog
from library.report.phases import Phases
from library.report.progress import StageBar
from library.report.status import Status
from library.terminal import say
from library.training.listeners import Listener
from library.training.stage import Stage


class StepLog(Listener):
    """Writes a line of `log.jsonl` for each step, and sends numbers and contact sheets to trackers."""

    def __init__(self, log: RunLog) -> None:
        self.log = log

    def step_made(self, row: dict[str, Any], seconds: float) -> None:
        """Writes its line."""
        self.log.write(row)

    def sheet_drawn(self, kind: str, gallery: Gallery, path: Path) -> None:
        """Sends it to the trackers."""
        self.log.picture(f"samples/{kind}", path)

    def ended(self, error: BaseException | None) -> None:
        """Closes the file and the trackers."""
        self.log.close()


class PhaseTimes(Listener):
    """Measures time and memory of each phase."""

    def __init__(self, phases: Phases) -> None:
        self.phases = phases

    def phase_begun(self, name: str) -> None:
        """What passes from now on is this phase's."""
        self.phases.begin(name)

    def phase_ended(self) -> None:
        """What passes from now on is that of the phase around it."""
        self.phases.end()


class StatusFile(Listener):
    """Keeps `status.json`.

    Args:
        folder: of the run's results.
        phases: measured before this hears of them.
    """

    def __init__(self, status: Status, folder: Path, phases: Phases) -> None:
        self.status = status
        self.folder = folder
        self.phases = phases

    def phase_begun(self, name: str) -> None:
        """The run's activity."""
        self.status.set(activity=name)

    def phase_ended(self) -> None:
        """The activity is that of the phase around it, and more is measured."""
        self.status.set(activity=self.phases.now, phases=self._measured())

    def context_learned(self, seconds: float) -> None:
        """How long it took."""
        self.status.set(context_seconds=seconds)

    def step_made(self, row: dict[str, Any], seconds: float) -> None:
        """How far the run is, and how long it takes yet."""
        self.status.step(row, seconds)

    def sheet_drawn(self, kind: str, gallery: Gallery, path: Path) -> None:
        """The newest sheet."""
        self.status.set(sheet=f"samples/{path.name}")

    def saved(self, files: Mapping[Path, str], step: int) -> None:
        """The newest files."""
        self.status.set(files=[path.name for path in files])

    def state_saved(self, folder: Path) -> None:
        """Where the run can be resumed from."""
        self.status.set(saved_state=str(folder.relative_to(self.folder)), phases=self._measured())

    def ended(self, error: BaseException | None) -> None:
        """How the run ended."""
        self.status.end(error)

    def _measured(self) -> list[dict[str, Any]]:
        return [phase.as_dict() for phase in self.phases.measured()]


class ProgressBar(Listener):
    """The bar of the stage that trains."""

    def __init__(self) -> None:
        self._bar: StageBar | None = None

    def stage_begun(self, stage: Stage) -> None:
        """A new bar."""
        self._bar = StageBar(stage.name, stage.steps, stage.done)

    def step_made(self, row: dict[str, Any], seconds: float) -> None:
        """One step more."""
        if self._bar is not None:
            self._bar.step(row)

    def stage_ended(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()


class SkippedSteps(Listener):
    """Warns of each skipped step."""

    def step_made(self, row: dict[str, Any], seconds: float) -> None:
        """Says why, if it was skipped."""
        if "skipped" in row:
            say(f"WARNING: stage {row['stage']}, step {row['step']} is skipped: {row['skipped']}.")
