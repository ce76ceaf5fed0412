"""Where things lie: the trainer's own folder, the folder of projects, and the one door for names that a page sends."""

from __future__ import annotations

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
"""Bytes of a file's name."""


class NotHere(Exception):
    """A page asks for something that is not there, or not its to see."""


def inside(folder: Path, name: str) -> Path:
    """What has this name directly in a folder, be it there or not.

    Raises:
        NotHere: the name is a path, no name for a file, or a link that leads out of the folder.
    """
    if why_not_a_name(name) or len(name.encode("utf-8", "replace")) > LONGEST:
        raise NotHere(name)
    path = folder / name
    if path.resolve() != folder.resolve() / name:
        raise NotHere(name)
    return path


def existing(folder: Path, name: str) -> Path:
    """The same, which is there.

    Raises:
        NotHere: see `inside`; or it is not there.
    """
    path = inside(folder, name)
    if not path.exists():
        raise NotHere(name)
    return path


def numbered(name: str, taken: set[str], joint: str) -> str:
    """The name, with the first number from 2 on behind a joint if others have it; systems that know no case count.

    Args:
        taken: names in lower case.
    """
    free, number = name, 2
    while free.lower() in taken:
        free, number = f"{name}{joint}{number}", number + 1
    return free
