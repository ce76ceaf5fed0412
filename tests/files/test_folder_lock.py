"""One run at a time in a folder, and what a killed run left there."""

import json
import os

import pytest

from library.errors import ConfigError
from library.files.folder_lock import FolderLock
from tests.helpers.another_process import held_by_another_process


def test_two_runs_in_one_folder_are_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    with (
        held_by_another_process(lambda: FolderLock(tmp_path)) as child,
        pytest.raises(ConfigError, match=rf"is in use by another run \(process {child} on .*, since "),
        FolderLock(tmp_path),
    ):
        pass
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / ".lock.json").read_text())["process"] == os.getpid()
    assert not (tmp_path / ".lock.json").exists()


def test_what_a_killed_run_left_half_written_is_removed_by_the_next_one(tmp_path):
    for name in (".part-abc.safetensors", "samples/.part-abc.png", "tiny-state/.part-abc/state.json", "mine.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    with FolderLock(tmp_path):
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {".lock", ".lock.json", "mine.png"}
