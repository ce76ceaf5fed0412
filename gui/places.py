"""Paths: the trainer's folder, the projects' folder, and the one function that checks names from a page."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from library.config.file_names import why_not_a_name

ROOT = Path(__file__).parent.parent
"""The trainer's folder, in which its commands are started."""
TRAIN, GENERATE, CAPTION, EVALUATE = (
    ROOT / f"purecc_{name}.py" for name in ("train", "generate", "caption", "evaluate")
)
POCKET_MODEL = ROOT / "pocket" / "model"
POCKET_PICTURES = ROOT / "pocket" / "subject-creature"
LONGEST = 255
"""Most bytes of a file name."""


@cache
def pocket_side() -> int:
    """Width and height of the pocket model's pictures, in pixels."""
    return json.loads((POCKET_MODEL / "vae" / "config.json").read_text(encoding="utf-8"))["sample_size"]


class NotHere(Exception):
    """A page asks for something that does not exist or that it may not see."""


def inside(folder: Path, name: str) -> Path:
    """The path of this name directly in a folder, whether it exists or not.

    Raises:
        NotHere: the name is a path, not a file name, or a link that leads out of the folder.
    """
    if why_not_a_name(name) or len(name.encode("utf-8", "replace")) > LONGEST:
        raise NotHere(name)
    path = folder / name
    if path.resolve() != folder.resolve() / name:
        raise NotHere(name)
    return path


def existing(folder: Path, name: str) -> Path:
    """The same, and it exists.

    Raises:
        NotHere: see `inside`, or it does not exist.
    """
    path = inside(folder, name)
    if not path.exists():
        raise NotHere(name)
    return path


def numbered(name: str, taken: set[str], joint: str) -> str:
    """The name, with a joint and the first free number from 2 on if it is taken, whatever the case.

    Args:
        taken: names in lower case.
    """
    free, number = name, 2
    while free.lower() in taken:
        free, number = f"{name}{joint}{number}", number + 1
    return free
