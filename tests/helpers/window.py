"""Helpers for tests of the window."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tools.pocket.pen import SIDE

SECRET = "a secret of forms"


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """Writes a picture that differs for every seed."""
    small = Image.new("RGB", (8, 8))
    small.putdata([((seed * 97 + n * 31) % 256, (n * n * (seed + 3)) % 256, (n * 53) % 256) for n in range(64)])
    small.resize(size).save(path)
    return path


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Waits until a condition is true, and returns its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come true")
