"""A run: a folder with run.toml, which `purecc_train.py` trains. Its status is always read from its files.

waiting     it was never started
starting    its process is alive, without a status.json yet
running     status.json says so, and its process lives
stopping    the same, and control/stop is not obeyed yet
done, stopped, failed    status.json says so, or the process has ended before it could
killed      status.json says "running", and the process is gone
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from gui import children
from gui.forecasts import sentence_of
from gui.machine import Machine
from gui.places import TRAIN, NotHere, existing, inside
from gui.projects import Project
from gui.recipes import check_ready, prompts_for, tables_of, write
from library.errors import ConfigError
from library.files.atomic import remove, write_text
from library.report.status import read_status
from library.training.control import COMMANDS, STOP

SETTINGS, LAUNCH, LOG, PROMPTS = "run.toml", "launch.json", "output.log", "prompts.txt"
WAITING, STARTING, RUNNING, STOPPING = "waiting", "starting", "running", "stopping"
DONE, STOPPED, FAILED, KILLED = "done", "stopped", "failed", "killed"
LIVE = frozenset({STARTING, RUNNING, STOPPING})
"""States in which the run has a process."""
RESUMABLE = frozenset({STOPPED, FAILED, KILLED})
TAIL = 30
"""Lines of the log to show."""
READ = 40_000
"""Bytes at the end of the log that are read for them."""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHEET = re.compile(r"student_(\d+)\.png")


@dataclass(frozen=True)
class Run:
    """A run of a project, in a folder."""

    project: Project
    folder: Path

    @property
    def name(self) -> str:
        """Its number, 001 and so on."""
        return self.folder.name

    @cached_property
    def status(self) -> dict[str, Any]:
        """The content of status.json if it is from the last start, else nothing."""
        found, launch = read_status(self.folder), self.launch
        began = _seconds(found.get("started_at"))
        return found if launch and began is not None and began >= int(launch["at"]) else {}

    @cached_property
    def launch(self) -> dict[str, Any] | None:
        """When it was last started, `at` (seconds since 1970), and as which process, `pid`."""
        with suppress(OSError, ValueError):
            found = json.loads((self.folder / LAUNCH).read_text(encoding="utf-8"))
            if isinstance(found, dict) and isinstance(found.get("at"), float):
                return found
        return None

    @cached_property
    def state(self) -> str:
        """Its status, one of the words above."""
        if self.launch is None:
            return WAITING
        if not self.status:
            return STARTING if children.lives(self.launch.get("pid"), self.launch["at"]) else FAILED
        if self.status.get("state") != RUNNING:
            return str(self.status.get("state"))
        if not children.lives(self.status.get("pid"), _seconds(self.status["started_at"]) or 0):
            return KILLED
        return STOPPING if (self.folder / "control" / STOP).exists() else RUNNING

    @property
    def reason(self) -> str | None:
        """Why it failed, as a sentence, if it did."""
        if self.state == FAILED:
            return self.status.get("exit_reason") or sentence_of(self.folder / LOG) or "It ended before it could start."
        return None

    def tail(self) -> list[str]:
        """The last lines of its output."""
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - READ))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        lines = [line.rsplit("\r", 1)[-1].rstrip() for line in ESCAPES.sub("", text).replace("\r\n", "\n").split("\n")]
        return [line[:400] for line in lines if line][-TAIL:]

    def sheets(self) -> list[tuple[int, str]]:
        """Steps of the student and the names of their contact sheets, in order."""
        folder = self.folder / "samples"
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return sorted((int(match[1]), name) for name in names if (match := SHEET.fullmatch(name)))

    def prompts(self) -> str:
        """The prompts of its sheets, one per line."""
        with suppress(OSError):
            return (self.folder / PROMPTS).read_text(encoding="utf-8")
        return ""

    def files(self) -> dict[int | None, list[str]]:
        """The saved LoRA files by step; None for the end of the run."""
        stem = re.escape(self.project.slug)
        pattern = re.compile(rf"{stem}(?:-(?:best-)?step(\d+))?((?:_[a-z]+)?)\.safetensors")
        found: dict[int | None, list[str]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            match = pattern.fullmatch(path.name)
            if match and not path.name.endswith("_extractor.safetensors"):
                found.setdefault(int(match[1]) if match[1] else None, []).append(path.name)
        return found


def _seconds(moment: Any) -> float | None:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError):
        return None


def create(project: Project, machine: Machine, cache: Path) -> Run:
    """Makes the next run of a project without starting it.

    Args:
        cache: cache folder.

    Raises:
        ConfigError: it can't be planned, or the settings are wrong.
    """
    check_ready(project, machine)
    project.runs.mkdir(exist_ok=True)
    numbers = [int(path.name) for path in project.runs.iterdir() if path.name.isdecimal()]
    folder = project.runs / f"{max(numbers, default=0) + 1:03d}"
    folder.mkdir()
    try:
        prompts = folder / PROMPTS
        write_text(prompts, prompts_for(project))
        write(folder / SETTINGS, tables_of(project, machine, cache, folder, prompts))
    except Exception:
        remove(folder)
        raise
    return Run(project, folder)


def load(project: Project, name: str) -> Run:
    """One of a project's runs.

    Raises:
        NotHere: there is none of this name.
    """
    folder = existing(project.runs, name)
    existing(folder, SETTINGS)
    return Run(project, folder)


def runs_of(project: Project) -> list[Run]:
    """A project's runs, newest first."""
    found = []
    for folder in sorted(project.runs.iterdir(), reverse=True) if project.runs.is_dir() else ():
        with suppress(NotHere):
            found.append(load(project, folder.name))
    return found


def start(run: Run) -> None:
    """Starts or continues it.

    Raises:
        ConfigError: it is running already.
    """
    if run.state in LIVE:
        raise ConfigError("This run is already running.")
    words = children.command_of(TRAIN, "--config_file", run.folder / SETTINGS)
    if run.launch is not None and read_status(run.folder):
        words += ["--resume", "auto"]
    moment = time.time()
    child = children.start(words, run.folder / LOG)
    write_text(run.folder / LAUNCH, json.dumps({"pid": child.pid, "at": moment}))


def ask(run: Run, command: str) -> None:
    """Sends a running run one of the trainer's commands: stop, sample or save.

    Raises:
        NotHere: no such command.
        ConfigError: it is not running.
    """
    if command not in COMMANDS:
        raise NotHere(command)
    if run.state == STARTING and command == STOP:
        children.end_at_once(run.launch["pid"], run.launch["at"])  # nothing has been computed yet
        return
    if run.state not in LIVE - {STARTING}:
        raise ConfigError("The run is not running, so it can't receive commands.")
    with suppress(FileNotFoundError):  # the run has just ended
        (run.folder / "control" / command).touch()


def end_at_once(run: Run) -> None:
    """Kills a run that does not react. When resumed, it continues from its last saved state."""
    if run.state in LIVE:
        pid = run.status.get("pid") or run.launch["pid"]
        children.end_at_once(pid, _seconds(run.status.get("started_at")) or run.launch["at"])


def change_prompts(run: Run, text: str) -> None:
    """Changes a run's prompts from its next sheet on."""
    lines = [" ".join(line.split())[:1000] for line in text.splitlines()[:40]]
    if not any(lines):
        raise ConfigError("There are no prompts left.", "Write at least one, one per line.")
    write_text(inside(run.folder, PROMPTS), "\n".join(line for line in lines if line) + "\n")


def rows_of(run: Run) -> Iterator[dict[str, Any]]:
    """The lines of log.jsonl."""
    with suppress(OSError), (run.folder / "log.jsonl").open(encoding="utf-8") as file:
        for line in file:
            with suppress(ValueError):
                yield json.loads(line)


def live_runs(projects: list[Project]) -> list[Run]:
    """The runs that have a process now."""
    return [run for project in projects for run in runs_of(project) if run.state in LIVE]


def now() -> datetime:
    """The time of the day here."""
    return datetime.now(UTC).astimezone()
