"""Handles the system's requests to stop, such as Ctrl-C. During training, the run stops at the end of a step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from library.terminal import say

STOPPING = ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP")
"""Ctrl-C, `kill`, Ctrl-Break or a closed window on Windows, a closed terminal elsewhere; each system has some."""
IGNORED_BY_NOHUP = "SIGHUP"


class StopRequest:
    """Listens for requests while the `with` block runs.

    A request stops at once, by `KeyboardInterrupt`. Inside `at_end_of_step`, only the second one does.

    Attributes:
        made: the run should stop at the end of its step.
    """

    def __init__(self) -> None:
        self.made = False
        self._waits = False

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._heard) for number in _heard_here()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_end_of_step(self) -> Iterator[None]:
        """Inside, the first request only sets `made`."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.made:
            raise KeyboardInterrupt("Stopped at once; the last saved state is unchanged.")
        if not self._waits:
            raise KeyboardInterrupt
        self.made = True
        with suppress(RuntimeError):  # it was in the middle of printing, and can't print again inside that
            say("Stopping after this step. Press Ctrl-C again to stop at once, without saving.")


def _heard_here() -> list[int]:
    """The signals on this system that ask a run to stop."""
    known = {name: getattr(signal, name) for name in STOPPING if hasattr(signal, name)}
    return [
        number
        for name, number in known.items()
        if name != IGNORED_BY_NOHUP or signal.getsignal(number) != signal.SIG_IGN
    ]
