"""What a run would need, from the trainer itself: `--dry_run --json` in its own process."""

from __future__ import annotations

import json
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gui import children
from gui.places import TRAIN
from gui.projects import Project
from library.files.atomic import remove, write_text

FILE, LOG, SAID = "forecast.json", ".forecast.log", ".forecast.out"


@dataclass(frozen=True)
class Forecast:
    """A forecast of a plan.

    Args:
        tables: the trainer's forecast; None if it failed.
        problem: why it failed, in the trainer's words.
    """

    tables: dict[str, Any] | None
    problem: str | None


class Forecasts:
    """Makes forecasts, one at a time per project. The result is kept in the project, so a new window finds it."""

    def __init__(self) -> None:
        self._running: dict[Path, tuple[str, subprocess.Popen]] = {}
        self._lock = threading.Lock()

    def of(self, project: Project, plan: Path, digest: str) -> Forecast | None:
        """The forecast of a plan. If there is none yet, this starts one and returns None.

        Args:
            digest: of the plan, see `recipes.digest_of`.
        """
        with self._lock:
            known = _read(project.folder / FILE)
            if known and known.get("digest") == digest:
                return Forecast(known.get("tables"), known.get("problem"))
            pending, child = self._running.get(project.folder, ("", None))
            if child is not None and pending == digest:
                if child.poll() is None:
                    return None
                return self._ended(project.folder, digest, child)
            if child is not None:
                child.kill()
            self._running[project.folder] = digest, self._begin(project.folder, plan)
        return None

    @staticmethod
    def _begin(folder: Path, plan: Path) -> subprocess.Popen:
        remove(folder / LOG)
        with (folder / SAID).open("wb") as said, (folder / LOG).open("wb") as log:
            words = children.command_of(TRAIN, "--config_file", plan, "--dry_run", "--json")
            return subprocess.Popen(words, cwd=TRAIN.parent, stdin=subprocess.DEVNULL, stdout=said, stderr=log)

    def _ended(self, folder: Path, digest: str, child: subprocess.Popen) -> Forecast:
        del self._running[folder]
        tables, problem = None, None
        with suppress(OSError, ValueError, IndexError):
            tables = json.loads((folder / SAID).read_text(encoding="utf-8").strip().splitlines()[-1])
        if not isinstance(tables, dict):
            tables, problem = (
                None,
                sentence_of(folder / LOG) or f"The forecast failed with exit code {child.returncode}.",
            )
        write_text(folder / FILE, json.dumps({"digest": digest, "tables": tables, "problem": problem}), durable=False)
        for name in (SAID, LOG):
            remove(folder / name)
        return Forecast(tables, problem)

    def drop(self, project: Project) -> None:
        """Cancels a project's forecast, because something else needs the GPU and the processor now."""
        with self._lock:
            _, child = self._running.pop(project.folder, ("", None))
            if child is not None:
                child.kill()

    def close(self) -> None:
        """Cancels all forecasts."""
        for _, child in self._running.values():
            child.kill()


def sentence_of(log: Path) -> str | None:
    """The error that a command ended with, the text after "error:"; None without one."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")[-20_000:]
    except OSError:
        return None
    if "error: " in text:
        return "error: ".join(text.split("error: ")[1:]).strip()[:3000]
    return text.strip().splitlines()[-1][:500] if text.strip() else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
