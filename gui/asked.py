"""What the user asks of a finished run. Each is a process, with its note and log next to its result."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from gui import children
from gui.forecasts import sentence_of
from library.files.atomic import write_text

MOST_SHOWN = 30
DONE, WORKING, FAILED = "done", "working", "failed"
_beginning = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request.

    Args:
        number: of the request, from 1.
        at: seconds since 1970 when it was asked for; `pid` the process that makes it.
    """

    number: int
    at: float = 0.0
    pid: int = 0

    @property
    def stem(self) -> str:
        """The start of the names of its files."""
        return f"{self.number:03d}"

    @property
    def result(self) -> str:
        """Its result, a path in the folder."""
        raise NotImplementedError


T = TypeVar("T", bound=Asked)


def all_of(kind: type[T], folder: Path) -> list[T]:
    """All of a kind, newest first."""
    found = []
    for file in folder.glob("*.json"):
        with suppress(OSError, ValueError, TypeError):
            found.append(kind(**json.loads(file.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda one: -one.number)[:MOST_SHOWN]


def state_of(folder: Path, one: Asked) -> tuple[str, str | None]:
    """ "done", "working" or "failed", and why it failed."""
    if (folder / one.result).is_file():
        return DONE, None
    if children.lives(one.pid, one.at):
        return WORKING, None
    return FAILED, sentence_of(folder / f"{one.stem}.log") or "It ended without a result."


def begin(folder: Path, one: T, command: Callable[[T], list[str]]) -> T:
    """Starts the next one.

    Args:
        one: the request; its number, time and process are set here.
        command: makes the command line from the request with its number.
    """
    with _beginning:
        folder.mkdir(exist_ok=True)
        number = max((before.number for before in all_of(type(one), folder)), default=0) + 1
        one = dataclasses.replace(one, number=number, at=time.time())
        child = children.start(command(one), folder / f"{one.stem}.log")
        one = dataclasses.replace(one, pid=child.pid)
        write_text(folder / f"{one.stem}.json", json.dumps(asdict(one), ensure_ascii=False))
    return one
