"""The trainer's commands as separate processes that outlive the window, and whether one is still alive."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from gui.places import ROOT

LATEST = 2.0
"""Seconds by which a process may seem to start after its start was noted: clocks are coarse."""


def command_of(script: Path, *words: str | Path) -> list[str]:
    """The command line of one of the trainer's commands."""
    return [sys.executable, str(script), *map(str, words)]


def start(command: Sequence[str], log: Path) -> subprocess.Popen:
    """Starts a command in its own process group, so Ctrl-C in the window's terminal does not reach it.

    Args:
        log: file to which its output is appended.
    """
    with log.open("ab") as file:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            **_apart(),
        )
    threading.Thread(
        target=child.wait, daemon=True
    ).start()  # without a wait, a process that has ended still looks alive
    return child


def _apart() -> dict[str, Any]:
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def lives(pid: Any, noted: float) -> bool:
    """Whether the process that had this number at that time is still alive. Systems reuse the numbers.

    Args:
        noted: seconds since 1970.
    """
    with suppress(psutil.Error, ValueError, TypeError):
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= noted + LATEST
    return False


def end_at_once(pid: int, noted: float) -> None:
    """Ends a process and its children, if it is still the one that had this number at that time."""
    if not lives(pid, noted):
        return
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (*process.children(recursive=True), process):
            with suppress(psutil.Error):
                one.kill()
