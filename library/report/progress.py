"""Progress on the terminal: bars with time left, and plain sentences."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sized
from typing import Any

from tqdm import tqdm

SHOWN = {
    "concept": "cc",
    "pure": "pure",
    "anchor": "anchor",
    "replay": "replay",
    "lambda_star": "lambda*",
    "cosine": "cos",
}
"""What the bar shows of a step, and what it calls it."""


def say(text: str) -> None:
    """Prints a sentence without breaking a bar that is being drawn."""
    tqdm.write(text, file=sys.stderr)


def bar_over(description: str) -> Callable[[Iterable], Iterable]:
    """Wraps a loop in a bar; loops that are empty or cached stay silent."""

    def wrap(items: Iterable) -> Iterable:
        return tqdm(items, desc=description, disable=isinstance(items, Sized) and not items, leave=False, delay=1.0)

    return wrap


class StageBar:
    """The bar of a training stage."""

    def __init__(self, stage: str, steps: int, done: int) -> None:
        self._bar = tqdm(total=steps, initial=done, desc=stage, unit="it", smoothing=0.1, dynamic_ncols=True)

    def step(self, row: dict[str, Any]) -> None:
        """Moves on by one step and shows its losses."""
        shown = {short: f"{row[name]:.3g}" for name, short in SHOWN.items() if name in row}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()
