"""The progress of a run, in numbers that a page can rely on, whatever is in status.json."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gui.runs import RUNNING, Run

ACTIVITIES = {
    "start": "Starting",
    "text": "Reading the captions",
    "latents": "Looking at the pictures",
    "loading": "Loading the model",
    "replayed pictures": "Drawing pictures of what must not change",
    "context": "Learning the subject's surroundings",
    "extractor": "Finding what is special",
    "student": "Learning it",
    "sheets": "Drawing the contact sheet",
    "check of the files": "Checking the files",
    "report card": "Measuring unwanted changes",
}
"""The trainer's phases in plain words; others keep their names."""


@dataclass(frozen=True)
class Progress:
    """A run's numbers; None for what is not known.

    Args:
        activity: its current phase, in plain words.
        step, steps: done, and in total, over all stages.
        seconds_left, seconds_a_step: as the trainer predicts them.
        ends_at: when the run will end, about, as the trainer predicts it.
        peak: largest memory of all phases, in bytes.
        phases: finished phases and their seconds.
    """

    activity: str | None
    step: int
    steps: int | None
    seconds_left: float | None
    seconds_a_step: float | None
    ends_at: datetime | None
    peak: float | None
    phases: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, run: Run) -> Progress:
        """Read from the run's status.json."""
        status = run.status
        given, speed = status.get("phases"), _number(status.get("steps_per_second"))
        phases = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
        peaks = [peak for one in phases if (peak := _number(one.get("peak_bytes"))) is not None]
        steps = _number(status.get("total_steps"))
        return cls(
            activity=_in_words(status.get("activity")) if run.state == RUNNING else None,
            step=int(_number(status.get("total_step")) or 0),
            steps=None if steps is None else int(steps),
            seconds_left=_number(status.get("seconds_left")),
            seconds_a_step=1 / speed if speed else None,
            ends_at=_time(status.get("ends_at")),
            peak=max(peaks, default=None),
            phases=tuple((_in_words(one.get("name")) or "", _number(one.get("seconds")) or 0.0) for one in phases),
        )


def _number(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if good else None


def _time(value: Any) -> datetime | None:
    """A time with its zone, in this computer's own."""
    if not isinstance(value, str):
        return None
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(value).astimezone()
    return None


def _in_words(activity: Any) -> str | None:
    return ACTIVITIES.get(activity, activity) if isinstance(activity, str) else None
