"""Ctrl-C, or SIGTERM, asks a run to stop at the end of its step; a second one stops it at once."""

from __future__ import annotations

import signal
from types import FrameType

from library.report.progress import say

STOPPING = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether the user has pressed Ctrl-C, while the `with` block runs."""

    def __init__(self) -> None:
        self.made = False

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._heard) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.made:
            raise KeyboardInterrupt("Stopped at once; the last saved state is as it was.")
        self.made = True
        say("Stopping at the end of this step; once more stops at once, without saving.")
