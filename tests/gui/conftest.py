"""A window without a server, and a trainer that only pretends."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from gui import audits, children, projects, runs, trials
from gui.app import make_app
from gui.guard import Access
from gui.projects import Project
from tests.helpers.window import SECRET, draw

PRETENDED = Path(__file__).with_name("pretended_trainer.py")


@pytest.fixture
def root(tmp_path) -> Path:
    """The folder of projects."""
    folder = tmp_path / "projects"
    folder.mkdir()
    return folder


@pytest.fixture
def client(root) -> TestClient:
    """A browser on this computer that has opened a page before, and so knows the secret."""
    app = make_app(root, Access(SECRET))
    headers = {"X-PureCC-Secret": SECRET}
    return TestClient(app, base_url="http://127.0.0.1:7870", headers=headers, raise_server_exceptions=True)


@pytest.fixture
def project(root) -> Project:
    """A project on the small model, with three captioned pictures."""
    made = projects.create(root, "My dog", class_word="creature", trigger="sks", model="pocket")
    for number in range(3):
        draw(made.pictures / f"{number}.png", number)
        (made.pictures / f"{number}.txt").write_text(f"a [V] creature in the city {number}\n")
    return made


@pytest.fixture
def pretended(monkeypatch) -> None:
    """`purecc_train.py` and its siblings are stood in for by a script that needs no time."""
    for module, name in ((runs, "TRAIN"), (trials, "GENERATE"), (audits, "EVALUATE")):
        monkeypatch.setattr(module, name, PRETENDED)


@pytest.fixture
def new_run(project) -> Callable[..., runs.Run]:
    """Makes a run whose files say what a test wants."""

    def make(status: dict[str, Any] | None = None, launch: dict[str, Any] | None = None) -> runs.Run:
        from gui.machine import Machine

        run = runs.create(project, Machine(), project.folder.parent / "cache")
        if launch is not None:
            (run.folder / "launch.json").write_text(json.dumps({"pid": os.getpid(), "at": time.time(), **launch}))
        if status is not None:
            now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 1))
            known = {"format": 1, "state": "running", "pid": os.getpid(), "started_at": now, "updated_at": now}
            (run.folder / "status.json").write_text(json.dumps({**known, **status}))
        return runs.load(project, run.name)

    return make


@pytest.fixture
def ended_process() -> int:
    """The number of a process that is gone."""
    child = children.start([sys.executable, "-c", ""], Path(os.devnull))
    child.wait()
    return child.pid
