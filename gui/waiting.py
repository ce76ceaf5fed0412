"""The queue of waiting runs, in queue.json. One trains at a time; a failed one does not block the next."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from gui import runs
from gui.places import NotHere
from gui.projects import all_in, load
from library.errors import ConfigError, PureCCError
from library.files.atomic import write_text

FILE = "queue.json"
CLOCK = re.compile(r"(?:[01]\d|2[0-3]):[0-5]\d")
_writing = threading.RLock()


@dataclass(frozen=True)
class Entry:
    """A waiting run.

    Args:
        after: such as "2026-11-29T23:00", the earliest start; "" for at once.
        held: it waits until the user releases it.
        problem: why it could not be started, as a sentence.
    """

    project: str
    run: str
    after: str = ""
    held: bool = False
    problem: str = ""


def read(root: Path) -> list[Entry]:
    """The queue in its order; empty if its file is missing or damaged."""
    with suppress(OSError, ValueError, TypeError):
        return [Entry(**entry) for entry in json.loads((root / FILE).read_text(encoding="utf-8"))]
    return []


def _change(root: Path, how: Callable[[list[Entry]], list[Entry]]) -> None:
    with _writing:
        root.mkdir(parents=True, exist_ok=True)
        write_text(root / FILE, json.dumps([asdict(entry) for entry in how(read(root))], ensure_ascii=False, indent=1))


def add(root: Path, run: runs.Run) -> None:
    """Adds a run unless it is already waiting, and starts it if nothing comes before it."""
    entry = Entry(run.project.slug, run.name)
    _change(
        root, lambda queue: [*(one for one in queue if (one.project, one.run) != (entry.project, entry.run)), entry]
    )
    advance(root)


def remove(root: Path, project: str, run: str) -> None:
    """Removes a run from the queue; it stays in its project."""
    _change(root, lambda queue: [one for one in queue if (one.project, one.run) != (project, run)])


def move_up(root: Path, project: str, run: str) -> None:
    """Swaps a run with the one before it."""

    def swapped(queue: list[Entry]) -> list[Entry]:
        for place, one in enumerate(queue):
            if place and (one.project, one.run) == (project, run):
                queue[place - 1], queue[place] = one, queue[place - 1]
                break
        return queue

    _change(root, swapped)


def hold(root: Path, project: str, run: str, held: bool) -> None:
    """Holds a run, or releases it."""
    _for_one(root, project, run, lambda one: replace(one, held=held, problem=""))


def start_at(root: Path, project: str, run: str, clock: str, now: datetime) -> None:
    """Schedules a run for the next time the clock shows this; "" for as soon as possible.

    Raises:
        ConfigError: not a time of day.
    """
    if not clock:
        _for_one(root, project, run, lambda one: replace(one, after=""))
        return
    if not CLOCK.fullmatch(clock):
        raise ConfigError(f"{clock[:20]!r} is not a time of day.", "Write it like 23:00.")
    hour, minute = map(int, clock.split(":"))
    moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0, tzinfo=None)
    if moment <= now.replace(tzinfo=None):
        moment = moment.fromordinal(moment.toordinal() + 1).replace(hour=hour, minute=minute)
    _for_one(root, project, run, lambda one: replace(one, after=moment.isoformat(timespec="minutes")))


def _for_one(root: Path, project: str, run: str, how: Callable[[Entry], Entry]) -> None:
    _change(root, lambda queue: [how(one) if (one.project, one.run) == (project, run) else one for one in queue])


def advance(root: Path) -> None:
    """Starts the first run that may start, if none is training."""
    with _writing:
        queue = read(root)
        if not queue or runs.live_runs(all_in(root)):
            return
        moment = datetime.now().isoformat(timespec="minutes")
        entry = next((one for one in queue if not one.held and not one.problem and one.after <= moment), None)
        if entry is None:
            return
        try:
            runs.start(runs.load(load(root, entry.project), entry.run))
        except NotHere:  # its folder was removed
            pass
        except (PureCCError, OSError) as error:
            said = str(error)
            _for_one(root, entry.project, entry.run, lambda one: replace(one, problem=said))
            return
        remove(root, entry.project, entry.run)
