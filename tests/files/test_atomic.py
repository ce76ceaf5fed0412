"""Files that another program has open, on a simulated Windows: nothing is lost, and no run waits for long."""

import json
import os
from pathlib import Path

import pytest
import torch

from library.adapters.files import read_safetensors, save_lora
from library.adapters.network import LayerWeights
from library.files import atomic
from library.files.atomic import InUse, move, remove, saved_at, write_folder, write_text
from library.files.cache import Cache
from library.report.log import RunLog
from library.report.status import Status, read_status
from library.training.run import Run


class Windows:
    """Refuses N times to move a file onto one in `held`; `waited` collects the waiting times, without waiting."""

    def __init__(self, monkeypatch) -> None:
        self.held: dict[str, float] = {}
        self.winerror: int | None = None
        self.waited: list[float] = []
        self._replace = os.replace
        monkeypatch.setattr("library.files.atomic.os.replace", self.replace)
        monkeypatch.setattr("library.files.atomic.sleep", self.waited.append)
        monkeypatch.setattr(atomic, "saved_beside", {})

    def replace(self, source, target) -> None:
        name = next((Path(one).name for one in (target, source) if self.held.get(Path(one).name, 0) > 0), None)
        if name:
            self.held[name] -= 1
            error = OSError(22, "mapped") if self.winerror else PermissionError(13, "in use", str(target))
            error.winerror = self.winerror
            raise error
        self._replace(source, target)


@pytest.fixture
def windows(monkeypatch) -> Windows:
    return Windows(monkeypatch)


FOR_EVER = float("inf")


@pytest.mark.parametrize("winerror", [None, atomic.MAPPED], ids=["open", "mapped"])
def test_a_file_that_is_held_for_a_moment_is_replaced_once_it_is_released(windows, tmp_path, winerror, capsys):
    (tmp_path / "log.csv").write_text("old")
    windows.held, windows.winerror = {"log.csv": 5}, winerror
    write_text(tmp_path / "log.csv", "new")
    assert (tmp_path / "log.csv").read_text() == "new" and len(windows.waited) == 5
    assert saved_at(tmp_path / "log.csv") == tmp_path / "log.csv" and capsys.readouterr().err == ""


def test_a_file_that_stays_held_is_waited_for_two_seconds_and_saved_next_to_it_once(windows, tmp_path, capsys):
    file = tmp_path / "log.csv"
    for taken in (file, tmp_path / "log-2.csv"):
        taken.write_text("another's")
    windows.held = {"log.csv": FOR_EVER}
    write_text(file, "first")
    assert 1.5 < sum(windows.waited) < 3
    write_text(file, "second")
    assert (saved_at(file), saved_at(file).read_text()) == (tmp_path / "log-3.csv", "second")
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1 and str(file) in said and "log-3.csv" in said
    windows.held["log-3.csv"] = FOR_EVER
    write_text(file, "in a table as well")
    assert saved_at(file) == tmp_path / "log-4.csv"
    windows.held = {}
    write_text(file, "third")
    assert (
        saved_at(file) == file and file.read_text() == "third" and (tmp_path / "log-2.csv").read_text() == "another's"
    )
    assert not list(tmp_path.glob(f"{atomic.TEMPORARY}*"))


def test_what_is_not_held_is_not_waited_for(windows, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        move(tmp_path / "nothing", tmp_path / "target")
    monkeypatch.setattr(
        "library.files.atomic.os.replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "folder"))
    )
    with pytest.raises(PermissionError):
        move(tmp_path / "file", tmp_path / "folder")
    assert windows.waited == []


def test_a_lora_is_where_it_is_said_to_be(windows, tmp_path):
    (tmp_path / "dog.safetensors").write_bytes(b"the one that the UI has open")
    windows.held = {"dog.safetensors": FOR_EVER}
    weights = {"transformer_blocks.0.attn.to_q": LayerWeights(torch.ones(1, 4), torch.ones(4, 1), 1.0)}
    kohya, diffusers = save_lora(tmp_path, "dog", weights, "float", {}, ["kohya", "diffusers"])
    assert (kohya.name, diffusers.name) == ("dog-2.safetensors", "dog_diffusers.safetensors")
    assert read_safetensors(kohya)[0]


def test_a_folder_that_is_held_is_waited_for_and_then_stays_whole(windows, tmp_path):
    def fill(folder: Path) -> None:
        (folder / "a").write_text("new")

    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "a").write_text("old")
    windows.held = {"state": 3}
    write_folder(tmp_path / "state", fill)
    assert (tmp_path / "state" / "a").read_text() == "new" and len(windows.waited) == 3
    windows.held = {"state": FOR_EVER}
    with pytest.raises(InUse, match="another program"):
        write_folder(tmp_path / "state", fill)
    remove(tmp_path / "state")
    assert (tmp_path / "state" / "a").read_text() == "new"


def test_what_can_not_be_removed_stays_and_costs_nothing(tmp_path, monkeypatch):
    (tmp_path / "old.safetensors").touch()
    monkeypatch.setattr(Path, "unlink", lambda self, *_: (_ for _ in ()).throw(PermissionError(13, "in use")))
    remove(tmp_path / "old.safetensors")
    assert (tmp_path / "old.safetensors").exists()


def test_a_cache_keeps_no_copies_and_what_another_run_reads_is_there(windows, tmp_path):
    cache, key, tensors = Cache(tmp_path), {"a": 1}, {"x": torch.ones(2)}
    name = Path(cache.place("kind", key)).name
    windows.held = {name: FOR_EVER}
    with pytest.raises(InUse):
        cache.put("kind", key, tensors)
    windows.held = {}
    cache.put("kind", key, tensors)
    windows.held = {name: FOR_EVER}
    cache.put("kind", key, tensors)
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == [name]


def test_a_log_that_is_held_is_refused_before_anything_is_computed(windows, tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    windows.held = {"log.jsonl": FOR_EVER}
    with pytest.raises(InUse, match=r"log\.jsonl"):
        RunLog(tmp_path, {"student": 1}, None)


def test_the_last_status_is_never_lost_and_the_others_are_not_waited_for(windows, tmp_path, capsys):
    status = Status(tmp_path, "x", {"student": 2})
    status.set(activity="text")
    windows.held = {"status.json": FOR_EVER}
    status.set(activity="latents")
    assert (windows.waited, read_status(tmp_path)["activity"]) == ([], "text")
    status.end(None)
    assert windows.waited and read_status(tmp_path)["state"] == "done" and [*tmp_path.iterdir()] == [status.path]
    status.path.unlink()
    status.path.mkdir()
    status.end(None)
    assert str(status.path) in capsys.readouterr().err


def test_a_run_whose_files_are_all_held_ends_well_and_says_where_they_are(windows, plan_of):
    """As with a spreadsheet on log.csv, a UI on the LoRA and a browser on the report."""
    plan = plan_of(extractor_train_steps=0, max_train_steps=1, concept_embeddings="none", student_embeddings="none")
    folder = plan.settings.output_dir
    folder.mkdir(parents=True)
    for name in ("log.csv", "report.html", "tiny.safetensors", "status.json"):
        (folder / name).write_text("held")
        windows.held[name] = FOR_EVER
    files = Run(plan).train()
    assert folder / "tiny-2.safetensors" in files and all(file.is_file() for file in files)
    assert [path.name for path in sorted(folder.glob("log*.csv"))] == ["log-2.csv", "log.csv"]
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "done" and "tiny-2.safetensors" in status["files"]
