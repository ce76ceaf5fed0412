"""Listeners that follow a run while it trains: log, status file, progress bar, and warnings about skipped steps."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
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
        """Counts time and memory for this phase from now on."""
        self.phases.begin(name)

    def phase_ended(self) -> None:
        """Counts for the surrounding phase from now on."""
        self.phases.end()


class StatusFile(Listener):
    """Keeps `status.json`.

    Args:
        folder: of the run's results.
        phases: measured before this is notified.
    """

    def __init__(self, status: Status, folder: Path, phases: Phases) -> None:
        self.status = status
        self.folder = folder
        self.phases = phases

    def phase_begun(self, name: str) -> None:
        """Shows the run's activity."""
        self.status.set(activity=name)

    def phase_ended(self) -> None:
        """Shows the surrounding phase as the activity, and what was measured."""
        self.status.set(activity=self.phases.now, phases=self._measured())

    def context_learned(self, seconds: float) -> None:
        """Shows how long it took."""
        self.status.set(context_seconds=seconds)

    def step_made(self, row: dict[str, Any], seconds: float) -> None:
        """Shows the run's progress and remaining time."""
        self.status.step(row, seconds)

    def end_predicted(self, at: float) -> None:
        """Shows when the run will end."""
        self.status.set(ends_at=datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds"))

    def sheet_drawn(self, kind: str, gallery: Gallery, path: Path) -> None:
        """Shows the newest sheet."""
        self.status.set(sheet=f"samples/{path.name}")

    def saved(self, files: Mapping[Path, str], step: int) -> None:
        """Shows the newest files."""
        self.status.set(files=[path.name for path in files])

    def state_saved(self, folder: Path) -> None:
        """Shows where the run can be resumed from."""
        self.status.set(saved_state=str(folder.relative_to(self.folder)), phases=self._measured())

    def ended(self, error: BaseException | None) -> None:
        """Shows how the run ended."""
        self.status.end(error)

    def _measured(self) -> list[dict[str, Any]]:
        return [phase.as_dict() for phase in self.phases.measured()]


class ProgressBar(Listener):
    """The bar of the current stage."""

    def __init__(self) -> None:
        self._bar: StageBar | None = None

    def stage_begun(self, stage: Stage) -> None:
        """Starts a new bar."""
        self._bar = StageBar(stage.name, stage.steps, stage.done)

    def step_made(self, row: dict[str, Any], seconds: float) -> None:
        """Adds one step."""
        if self._bar is not None:
            self._bar.step(row)

    def stage_ended(self) -> None:
        """Leaves the bar on the screen."""
        if self._bar is not None:
            self._bar.close()


class SkippedSteps(Listener):
    """Warns of each skipped step."""

    def step_made(self, row: dict[str, Any], seconds: float) -> None:
        """Says why, if it was skipped."""
        if "skipped" in row:
            say(f"WARNING: stage {row['stage']}, step {row['step']} is skipped: {row['skipped']}.")
