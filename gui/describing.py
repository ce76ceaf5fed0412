"""Captions written by a vision-language model: `purecc_caption.py` in its own process, if it is installed."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass

from gui import children
from gui.forecasts import sentence_of
from gui.places import CAPTION
from gui.projects import Project
from library.errors import ConfigError
from library.files.atomic import remove, write_text

FILE, LOG = "describing.json", "describing.log"


@dataclass(frozen=True)
class Describing:
    """A call of the command: whether it is still working, and the error that it ended with, if any."""

    works: bool
    problem: str | None


def is_there() -> bool:
    """Whether the command comes with this trainer."""
    return CAPTION.is_file()


def begin(project: Project) -> None:
    """Starts it, only for pictures without a caption.

    Raises:
        ConfigError: trigger or class word is missing, or it is already working.
    """
    concept = project.concept()
    found = state_of(project)
    if not is_there() or (found is not None and found.works):
        raise ConfigError(
            "Your pictures are already being described." if is_there() else "purecc_caption.py is missing."
        )
    words = [project.pictures, "--kind", concept.kind, f"--trigger={concept.trigger}"]
    words += [f"--class_word={concept.class_word}"] if concept.kind == "subject" else []
    remove(project.folder / LOG)
    at = time.time()
    child = children.start(children.command_of(CAPTION, *words), project.folder / LOG)
    write_text(project.folder / FILE, json.dumps({"pid": child.pid, "at": at}))


def state_of(project: Project) -> Describing | None:
    """The last call; None if there is none, or if it succeeded."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        call = json.loads((project.folder / FILE).read_text(encoding="utf-8"))
        if children.lives(call["pid"], call["at"]):
            return Describing(True, None)
        said = sentence_of(project.folder / LOG)
        with suppress(OSError):
            text = (project.folder / LOG).read_text(encoding="utf-8", errors="replace")
            return Describing(False, said) if "error: " in text or "Traceback" in text else None
    return None
