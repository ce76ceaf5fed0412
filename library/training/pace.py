"""Says by the first steps when a stage and the run will end, and warns once if later ones take many times as long."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from library.preflight.times import in_time
from library.preflight.windows import POLICY, spills
from library.terminal import say
from library.training.listeners import Listener, Listeners
from library.training.stage import Stage

TIMED = 5
"""Steps, after the very first one, whose median says when the stage will end."""
WORTH_COUNTING = 60.0
"""Seconds that are left of a stage from which on it is worth counting what comes after it."""
STEPS = 10
"""How many steps' median is compared; a single step may be slow for any reason."""
MANY_TIMES = 4.0
"""From this factor over the first steps, it is no longer chance."""
BEYOND_FORECAST = 8.0
"""From this factor over the plan, it is more than a forecast's error; the forecast's GPUs were never tried."""


class Pace:
    """How long the steps of a stage take.

    Args:
        planned: seconds per step as predicted for this GPU; None: not predicted.
    """

    def __init__(self, planned: float | None = None) -> None:
        self.planned = planned
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=STEPS)

    def slower(self, seconds: float) -> str | None:
        """Notes a step; if the last ones take many times as long as they should, returns the comparison."""
        self._last.append(seconds)
        if len(self._first) <= STEPS:
            self._first.append(seconds)
        if len(self._first) <= STEPS:  # the first one, which includes the warm-up, and `STEPS` more
            return None
        now, begin = statistics.median_low(self._last), statistics.median_low(self._first[1:])
        if now > MANY_TIMES * begin:
            return f"{now / begin:.0f} times as long as at the start ({now:.2g} s instead of {begin:.2g} s)"
        if self.planned and now > BEYOND_FORECAST * self.planned:
            return f"{now / self.planned:.0f} times as long as planned ({now:.2g} s instead of {self.planned:.2g} s)"
        return None


StepsAfter = Callable[[], Mapping[str, float]]
"""Counts what comes after each stage until the run ends, in steps of that stage."""


class EndOfStage(Listener):
    """Says, a few steps after a stage has begun or continues, when it will end, and when the run will.

    Args:
        listeners: are notified of the run's end.
        after: called for a stage that takes long.
    """

    def __init__(self, listeners: Listeners, after: StepsAfter = dict) -> None:
        self.listeners = listeners
        self.after = after
        self._steps = 0
        self._seconds: list[float] = []

    def stage_begun(self, stage: Stage) -> None:
        """Each stage is timed on its own."""
        self._steps, self._seconds = stage.steps, []

    def step_made(self, row: dict[str, Any], seconds: float) -> None:
        """Times it; says what follows once there are enough."""
        self._seconds.append(seconds)
        if len(self._seconds) != 1 + TIMED:
            return
        each = statistics.median_low(self._seconds[1:])
        left = (self._steps - row["step"]) * each
        if not left:
            return
        name, now = row["stage"], time.time()
        said = (
            f"a step of the {name} takes {each:.2g} s; the last one ends in {in_time(left)}, at {_clock(now + left)}."
        )
        after = self.after().get(name) if left >= WORTH_COUNTING else None
        if after is None:
            say(f"Measured: {said}")
            return
        end = now + left + after * each
        say(f"Measured: {said} The run ends at about {_clock(end)}.")
        self.listeners.tell(Listener.end_predicted, end)


def _clock(at: float) -> str:
    return time.strftime("%H:%M", time.localtime(at))


class PaceWarning(Listener):
    """Warns once per run if its steps take many times as long as they should.

    Args:
        planned: seconds per step of each stage, if predicted.
    """

    def __init__(self, planned: Mapping[str, float], on_card: bool) -> None:
        self.planned = planned
        self.on_card = on_card
        self._pace = Pace()
        self._said = False

    def stage_begun(self, stage: Stage) -> None:
        """Measures each stage separately."""
        self._pace = Pace(self.planned.get(stage.name))

    def step_made(self, row: dict[str, Any], seconds: float) -> None:
        """Warns after the first step that is too slow."""
        slower = self._pace.slower(seconds)
        if slower and not self._said:
            self._said = True
            say(f"WARNING: a step of the {row['stage']} takes {slower}. {why_slow(self.on_card)}")


def why_slow(on_card: bool) -> str:
    """The likely reason, and what to do."""
    if spills(on_card):
        return f"The GPU's memory may be full, so that Windows uses the computer's instead. {POLICY}"
    return "Another program may be using the GPU or CPU, or it may be too hot."
