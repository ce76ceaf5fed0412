"""`status.json`: a run's status, for a GUI or a script to read at any moment; see docs/reference/status.md."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from library.errors import StorageError, exit_code_for, in_words
from library.files.atomic import write_text
from library.terminal import say

FORMAT = 1
RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
SECONDS_BETWEEN = 1.0
"""Seconds between two writes of the file for steps."""
SMOOTHING = 0.9
"""Weight of the past in the speed."""


class Status:
    """Keeps `status.json` up to date. If it can't be written, the run continues without it.

    Args:
        folder: of the run's results; paths in the file are relative to it.
        stage_steps: the stages in their order, and the steps of each.
    """

    def __init__(self, folder: Path, name: str, stage_steps: dict[str, int]) -> None:
        self.path = folder / "status.json"
        self._stage_steps = stage_steps
        self._written = 0.0
        self._seconds: float | None = None
        self._values: dict[str, Any] = {
            "format": FORMAT,
            "run": name,
            "state": RUNNING,
            "pid": os.getpid(),
            "started_at": _now(),
            "total_steps": sum(stage_steps.values()),
            "exit_code": None,
            "exit_reason": None,
        }

    def set(self, **values: Any) -> None:
        """Changes fields and writes the file."""
        self._values |= values
        self._write()

    def step(self, row: dict[str, Any], seconds: float) -> None:
        """After a step.

        Args:
            row: its line of the log.
            seconds: that it took.
        """
        stage, done = row["stage"], row["step"]
        begins_stage = self._values.get("stage") != stage
        if self._seconds is None or begins_stage:
            self._seconds = seconds
        else:
            self._seconds = SMOOTHING * self._seconds + (1 - SMOOTHING) * seconds
        names = list(self._stage_steps)
        before = sum(self._stage_steps[name] for name in names[: names.index(stage)])
        left = self._values["total_steps"] - before - done
        self._values |= {
            "stage": stage,
            "step": done,
            "steps": self._stage_steps[stage],
            "total_step": before + done,
            "steps_per_second": 1 / self._seconds,
            "seconds_left": round(left * self._seconds, 1),
            "last": {name: value for name, value in row.items() if isinstance(value, float) and math.isfinite(value)},
        }
        if begins_stage or done == self._stage_steps[stage] or time.monotonic() - self._written >= SECONDS_BETWEEN:
            self._write()

    def end(self, error: BaseException | None) -> None:
        """Records how the run ended; None: successfully."""
        code = exit_code_for(error)
        stopped = FAILED if code != exit_code_for(KeyboardInterrupt()) else STOPPED
        reason = "All steps are done." if error is None else str(error) or type(error).__name__
        state = DONE if error is None else stopped
        self._values |= {"state": state, "exit_code": code, "exit_reason": reason, "activity": None, "seconds_left": 0}
        self._write_last()

    def sentence(self) -> str:
        """The status of the run, for people."""
        words = {RUNNING: "The run continues.", DONE: "The run is done.", STOPPED: "The run was stopped."}
        return words.get(self._values["state"], f"The run failed: {self._values['exit_reason']}")

    def _write(self) -> None:
        self._written = time.monotonic()
        with suppress(OSError, StorageError):  # the files that must be saved will report a full disk
            write_text(self.path, self._text(), durable=False, patience=())  # the next write comes in a second

    def _write_last(self) -> None:
        """The last write. If the file can't be replaced (a reader, a full disk), it is overwritten in place."""
        try:
            write_text(self.path, self._text(), durable=False)
        except (OSError, StorageError) as error:
            try:
                with self.path.open("r+b") as file:
                    file.write(self._text().encode())
                    file.truncate()
            except OSError:
                say(f"WARNING: the end of the run could not be written to {self.path} ({in_words(error)}).")

    def _text(self) -> str:
        return json.dumps({**self._values, "updated_at": _now()}, indent=2) + "\n"


def read_status(folder: Path) -> dict[str, Any]:
    """The content of a folder's `status.json`; empty if there is none or it can't be read."""
    try:
        found = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def end_of_killed(folder: Path) -> None:
    """Marks a run as done if it finished everything but was killed before it could say so."""
    found = read_status(folder)
    if found.get("state") == RUNNING:
        status = Status(folder, found.get("run", ""), {})
        status._values = found
        status.end(None)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
