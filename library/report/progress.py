"""Progress on the terminal: bars with the time left, or a line now and then in a file or pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sized
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from library.models.interface import Progress

T = TypeVar("T")
SHOWN = {
    "concept": "cc",
    "pure": "pure",
    "anchor": "anchor",
    "replay": "replay",
    "word": "word",
    "lambda_star": "lambda*",
    "cosine": "cos",
}
"""The values of a step that the bar shows, and their labels."""
SECONDS_BETWEEN_LINES = 30.0
"""Seconds between lines in a file or pipe."""
LINE = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Lines:
    """Standard error in a file or pipe: each state of the bar becomes a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Writes the text of a bar without cursor movements and blanks."""
        line = text.strip("\r\n ")
        if line:
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        """Flushes what was written."""
        self._stream.flush()


def _bar(*given: Any, **how: Any) -> tqdm:
    """A bar, or lines now and then, depending on where standard error goes."""
    if not sys.stderr.isatty():
        often = dict.fromkeys(("mininterval", "maxinterval"), SECONDS_BETWEEN_LINES)
        how |= {"file": Lines(sys.stderr), "position": 0, "miniters": 1, "bar_format": LINE, **often}
    return tqdm(*given, **how)


def bar_over(description: str) -> Progress:
    """Wraps a loop in a bar; loops that are empty or cached stay silent."""

    def wrap(items: Iterable[T]) -> Iterable[T]:
        return _bar(items, desc=description, disable=isinstance(items, Sized) and not items, leave=False, delay=1.0)

    return wrap


class StageBar:
    """The bar of a training stage."""

    def __init__(self, stage: str, steps: int, done: int) -> None:
        self._bar = _bar(total=steps, initial=done, desc=stage, unit="it", smoothing=0.1, dynamic_ncols=True)
        self._shown: dict[str, str] = {}

    def step(self, row: dict[str, Any]) -> None:
        """Advances one step and shows its losses; a loss that the step lacks keeps its last value."""
        self._shown |= {short: f"{row[name]:.3g}" for name, short in SHOWN.items() if name in row}
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Closes the bar and leaves it on the screen."""
        self._bar.close()
