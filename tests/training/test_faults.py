"""Failures during a run, each really caused: full and read-only disks, damaged states, NaN and infinite values.

After each of them, earlier files are intact, and the resumed run ends like an undisturbed one.
"""

import csv
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from library.errors import (
    EXIT_FAULT,
    EXIT_TRAINING_ERROR,
    ConfigError,
    Interrupted,
    ModelError,
    StorageError,
    TrainingError,
    exit_code_of,
)
from library.files.checkpoint import Position, SavedState, StateFolder
from library.files.folder_lock import FolderLock
from library.models.opening import pick_device
from library.models.sd3.model import SD3Model
from library.report.log import read_log
from library.report.status import Status, read_status
from library.training.run import Run
from library.training.stage import Stage
from tests.helpers.datasets import DATASET
from tests.helpers.places import content_of
from tests.helpers.runs import assert_equal_files, before_stage_1, prepared, stopped_after, student_file
from tests.helpers.small_disk import fill_up, remount, small_disk

QUICK = {"extractor_train_steps": 1, "max_train_steps": 3, "save_state_every_n_steps": 1, "replay_images": 2}
undisturbed: dict[str, dict] = {}


@pytest.fixture
def quick_plan(plan_of, tmp_path):
    """Plans of one quick run; its `whole` is the student of the undisturbed run."""
    if not undisturbed:
        run = Run(plan_of(**QUICK, output_dir=str(tmp_path / "undisturbed")))
        run.train()
        undisturbed["student"] = student_file(run)
    return lambda **settings: plan_of(**{**QUICK, **settings})


def ends_undisturbed(plan) -> None:
    run = Run(plan)
    run.train()
    assert_equal_files(undisturbed["student"], student_file(run))


# Disks


def test_a_disk_that_is_full_while_saving_costs_no_state(quick_plan, monkeypatch, tmp_path):
    with small_disk(tmp_path / "disk", 4000) as disk:
        run = stopped_after(1, Run(quick_plan(output_dir=str(disk))), monkeypatch)
        before = content_of(run.states.folder)
        filler = fill_up(disk)
        again = Run(quick_plan(output_dir=str(disk), resume="auto"))
        with pytest.raises(StorageError, match=r"can't be written: the disk is full") as error:
            again.train()
        assert str(disk) in error.value.what and "Free some space" in error.value.remedy
        assert content_of(run.states.folder) == before
        assert not [path for path in disk.rglob("*part-*") if path != filler]
        filler.unlink()
        ends_undisturbed(quick_plan(output_dir=str(disk), resume="auto"))


def test_a_disk_that_is_full_while_caching_is_reported_and_what_is_cached_counts(quick_plan, monkeypatch, tmp_path):
    encoded = []
    encode = SD3Model.encode_image
    monkeypatch.setattr(SD3Model, "encode_image", lambda self, pixels: encoded.append(1) or encode(self, pixels))
    with small_disk(tmp_path / "disk", 60) as disk:
        with pytest.raises(StorageError, match="the disk is full") as error:
            Run(quick_plan(cache_dir=str(disk))).train()
        assert str(disk) in error.value.what
        kept = {name: content for name, content in content_of(disk).items() if name.endswith("safetensors")}
        assert kept and not [name for name in kept if "part-" in name]
        remount(disk, "size=4000k")
        ends_undisturbed(quick_plan(cache_dir=str(disk), overwrite=True))
        assert {name: content_of(disk)[name] for name in kept} == kept
    assert len(encoded) == 4


def test_a_folder_that_may_only_be_read_is_reported_before_anything_is_computed(quick_plan, monkeypatch, tmp_path):
    monkeypatch.setattr(SD3Model, "encode_text", lambda *_: pytest.fail("something was computed"))
    with small_disk(tmp_path / "disk", 400) as disk:
        remount(disk, "ro")
        with pytest.raises(StorageError, match="the folder is read-only"):
            Run(quick_plan(output_dir=str(disk / "out"))).train()
        with pytest.raises(StorageError, match="the folder is read-only"), FolderLock(disk):
            pass


def test_a_file_in_the_place_of_the_output_folder_is_reported(quick_plan, tmp_path):
    (tmp_path / "out").write_text("not a folder")
    for folder in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(StorageError, match=r"where a folder is needed|is a file, not a folder"):
            Run(quick_plan(output_dir=str(folder))).train()


def test_a_limit_on_the_size_of_files_is_reported(quick_plan, tmp_path):
    resource = pytest.importorskip("resource", reason="only Unix limits the size of files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="larger than this file system allows"):
            Run(quick_plan()).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# One run in a folder


# States


def damage_tensors(state: Path) -> None:
    """Flips one bit, as a bad disk does: the file keeps its length and header."""
    file = state / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)


def cut_tensors(state: Path) -> None:
    file = state / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def lie_about_length(state: Path) -> None:
    file = state / "tensors.safetensors"
    file.write_bytes((1 << 62).to_bytes(8, "little") + file.read_bytes()[8:])


def change_a_number(state: Path) -> None:
    file = state / "state.json"
    file.write_text(re.sub(r'"student": (\d)', r'"student": 7\1', file.read_text()))


def empty_json(state: Path) -> None:
    (state / "state.json").write_text("")


def other_json(state: Path) -> None:
    (state / "state.json").write_text("[]")


def lose_a_file(state: Path) -> None:
    (state / "state.json").unlink()


DAMAGE = [damage_tensors, cut_tensors, lie_about_length, change_a_number, empty_json, other_json, lose_a_file]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path, damage):
    states = StateFolder(tmp_path / "state")
    for step in (1, 2):
        states.save(SavedState(Position({"student": step}), {"a": 1}, {"x": torch.full((40,), float(step))}))
    damage(states.newest())
    state, damaged = states.load_newest({"a": 1})
    assert state.position.done == {"student": 1} and state.tree["x"].unique().tolist() == [1.0]
    assert "step-00000002 is not a readable state" in damaged[0].what
    damage(states.all()[0])
    with pytest.raises(ModelError, match="step-00000001 is not a readable state"):
        states.load_newest({"a": 1})


def test_a_state_of_another_version_is_reported(tmp_path, monkeypatch):
    states = StateFolder(tmp_path / "state")
    with monkeypatch.context() as patch:
        patch.setattr("library.files.checkpoint.FORMAT", 3)
        states.save(SavedState(Position({"student": 1}), {}, {}))
    with pytest.raises(ModelError, match=r"another version wrote it \(format 3, here"):
        states.load_newest({})


def test_a_run_continues_from_the_state_before_a_damaged_one_and_says_so(quick_plan, monkeypatch, capsys):
    run = stopped_after(2, Run(quick_plan()), monkeypatch)
    assert [path.name for path in run.states.all()] == ["step-00000002", "step-00000003"]
    damage_tensors(run.states.newest())
    ends_undisturbed(quick_plan(resume="auto"))
    said = capsys.readouterr().err
    assert "tensors.safetensors is damaged. Continuing from the state before it" in said
    assert "1 steps of the extractor, 1 steps of the student" in said


def test_a_state_can_be_named_or_its_folder(quick_plan, monkeypatch, tmp_path):
    run = stopped_after(2, Run(quick_plan()), monkeypatch)
    older, newer = run.states.all()
    assert Run(quick_plan(resume=str(older))).resumed.position.done["student"] == 1
    assert Run(quick_plan(resume=str(run.states.folder))).resumed.position.done["student"] == 2
    damage_tensors(newer)
    assert Run(quick_plan(resume=str(newer))).resumed.position.done["student"] == 1
    with pytest.raises(ConfigError, match=r"resume: the folder .*nowhere"):
        Run(quick_plan(resume=str(tmp_path / "nowhere")))


# Stopping


def test_ctrl_c_twice_stops_at_once_and_costs_the_step(quick_plan, monkeypatch):
    step = Stage.step

    def pressed_twice(self):
        if (self.name, self.done) == ("student", 1):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("it did not stop at once")
        return step(self)

    monkeypatch.setattr(Stage, "step", pressed_twice)
    run = Run(quick_plan())
    with pytest.raises(Interrupted, match=r"Stopped at once.*--resume auto"):
        run.train()
    monkeypatch.undo()
    assert run.states.newest().name == "step-00000002", "what was saved before is there, and nothing newer"
    ends_undisturbed(quick_plan(resume="auto"))


def test_ctrl_c_while_caching_keeps_what_is_cached(quick_plan, monkeypatch, tmp_path, request):
    encode, count = SD3Model.encode_image, []

    def pressed(self, pixels):
        count.append(1)
        if len(count) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return encode(self, pixels)

    monkeypatch.setattr(SD3Model, "encode_image", pressed)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests' parent process may ignore Ctrl-C
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    cache = str(tmp_path / "fresh")
    with pytest.raises(Interrupted, match=r"The cache is kept.* from the beginning"):
        Run(quick_plan(cache_dir=cache)).train()
    assert len(count) == 3
    ends_undisturbed(quick_plan(cache_dir=cache))
    assert len(count) == 3 + 2


def test_sigterm_saves_as_ctrl_c_does(quick_plan, monkeypatch):
    step = Stage.step

    def terminated(self):
        row = step(self)
        if (self.name, self.done) == ("student", 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return row

    monkeypatch.setattr(Stage, "step", terminated)
    run = Run(quick_plan())
    with pytest.raises(Interrupted, match="Everything is saved"):
        run.train()
    assert run.states.newest().name == "step-00000002"


def test_a_clock_that_goes_backwards_changes_nothing(quick_plan, monkeypatch):
    now = iter(range(2_000_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    ends_undisturbed(quick_plan())


# Pictures


@pytest.mark.parametrize("harm", ["deleted", "replaced", "cut off"])
def test_pictures_that_are_damaged_while_a_run_trains_do_not_change_it(
    quick_plan, pictures, monkeypatch, tmp_path, harm
):
    """Everything that training needs from them is in the cache before its first step."""
    own = shutil.copytree(pictures, tmp_path / "own")
    build, harmed = Run.build_extractor, []

    def build_after_harm(self):
        for file in own.iterdir():
            harmed.append(file)
            if harm == "deleted":
                file.unlink()
            else:
                file.write_bytes(b"another" if harm == "replaced" else file.read_bytes()[:9])
        build(self)

    monkeypatch.setattr(Run, "build_extractor", build_after_harm)
    ends_undisturbed(quick_plan(dataset=DATASET.replace("{pictures}", str(own)), sample_every_n_steps=1))
    assert len(harmed) == 8


def test_a_run_that_continues_with_other_pictures_says_which(quick_plan, pictures, monkeypatch, tmp_path, capsys):
    own = shutil.copytree(pictures, tmp_path / "own")
    dataset = {"dataset": DATASET.replace("{pictures}", str(own))}
    stopped_after(1, Run(quick_plan(**dataset)), monkeypatch)
    (own / "0.png").write_bytes((own / "1.png").read_bytes())
    (own / "2.txt").write_text("a [V] dog in a house")
    (own / "3.png").rename(own / "4.png")
    (own / "3.txt").rename(own / "4.txt")

    def go_on() -> str:
        run = prepared(quick_plan(**dataset, resume="auto"))
        run.log.close()
        return capsys.readouterr().err

    said = ": 0.png (picture), 2.png (captions), 3.png (gone), 4.png (new)."
    assert said in go_on()
    assert "has changed" not in go_on()


# NaN and infinite values


def spoil(run: Run, name: str) -> None:
    """Makes the latents of a picture so large that its loss overflows, from every source."""
    draw = run.latents.draw

    def spoilt(draw_of, generator):
        latents = draw(draw_of, generator)
        return latents * 1e30 if draw_of.picture.path.name == name else latents

    run.latents.draw = spoilt


def test_a_step_without_a_number_is_skipped_and_says_where(quick_plan, capsys):
    run = Run(quick_plan())
    spoil(run, "2.png")
    run.train()
    rows = read_log(run.folder / "log.jsonl")
    skipped = [row for row in rows if "skipped" in row]
    assert 0 < len(skipped) < len(rows)
    assert all("2.png at sigma 0." in row["skipped"] and "loss" not in row for row in skipped)
    assert f"WARNING: stage {skipped[0]['stage']}, step {skipped[0]['step']} is skipped" in capsys.readouterr().err
    assert all(tensor.isfinite().all() for tensor in student_file(run).values())
    with (run.folder / "log.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["skipped"] for row in table] == [row.get("skipped", "") for row in rows]
    assert [bool(row["loss"]) for row in table] == ["loss" in row for row in rows]
    assert "<svg" in (run.folder / "report.html").read_text(encoding="utf-8")
    assert read_status(run.folder)["state"] == "done"


def test_a_full_disk_costs_the_status_and_not_the_run(tmp_path):
    with small_disk(tmp_path / "disk", 16) as disk:
        fill_up(disk)
        Status(disk, "run", {"student": 2}).set(activity="start")
        assert not (disk / "status.json").exists()


def test_too_many_of_them_in_a_row_end_the_run(quick_plan):
    run = Run(quick_plan(max_skipped_steps=0))
    spoil(run, "2.png")
    with pytest.raises(TrainingError, match=r"Stage \w+, step \d: the loss is (inf|nan) on .*2\.png at sigma 0\.\d+"):
        run.train()


def test_weights_that_are_no_numbers_end_the_run_at_once(quick_plan, monkeypatch):
    step = Stage.step

    def harmed(self):
        with torch.no_grad():
            self.update.parameters[0][0, 0] = float("nan")
        return step(self)

    monkeypatch.setattr(Stage, "step", harmed)
    with pytest.raises(TrainingError, match=r"step 1: .* the weights are NaN"):
        Run(quick_plan(max_skipped_steps=100, extractor_train_steps=9)).train()


def test_a_skipped_step_changes_no_weight(quick_plan):
    run = before_stage_1(quick_plan(extractor_train_steps=3))
    stage = run.extractor_stage()
    before = [weight.detach().clone() for weight in stage.update.parameters]
    for name in ("0.png", "1.png", "2.png", "3.png"):
        spoil(run, name)
    assert "skipped" in stage.step() and stage.done == 1
    assert all((a == b).all() for a, b in zip(before, stage.update.parameters, strict=True))


def test_a_gradient_beyond_float16_is_skipped_said_and_scaled_less_next_time(quick_plan):
    run = before_stage_1(quick_plan(mixed_precision="fp16", extractor_train_steps=3))
    stage = run.extractor_stage()
    stage.update.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = [weight.detach().clone() for weight in stage.update.parameters]
    assert f"loss scale of fp16 from now on: {2.0**59:g}" in stage.step()["skipped"] and stage.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, stage.update.parameters, strict=True))
    stage.update.scaler = torch.amp.GradScaler("cpu")
    assert "skipped" not in stage.step() and stage.skipped == 0
    assert not all(torch.equal(a, b) for a, b in zip(before, stage.update.parameters, strict=True))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), MemoryError()],
    ids=str,
)
def test_memory_that_is_not_enough_is_a_sentence_wherever_it_happens(quick_plan, monkeypatch, capsys, error):
    def scarce(*_):
        raise error

    assert exit_code_of(scarce, lambda: "the log") == EXIT_TRAINING_ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "out of memory" in said and "Traceback" not in said
    monkeypatch.setattr("library.training.preparation.draw_replay", scarce)
    with pytest.raises(TrainingError, match="replayed pictures: out of memory"):
        Run(quick_plan()).train()


@pytest.mark.parametrize(
    ("error", "said", "remedy"),
    [
        ("CUDA error: unspecified launch failure", "does not answer", "--resume auto"),
        ("CUDA error: no kernel image is available for execution on the device", "not built for this GPU", "Install"),
        ("The NVIDIA driver on your system is too old (found version 11040).", "driver is too old", "Update"),
    ],
)
def test_a_gpu_that_is_gone_unknown_or_driven_by_something_old_is_a_sentence(
    quick_plan, monkeypatch, capsys, error, said, remedy
):
    step = Stage.step

    def vanishes(self):
        if self.done:
            raise RuntimeError(f"{error}\nCUDA kernel errors might be asynchronously reported")
        return step(self)

    monkeypatch.setattr(Stage, "step", vanishes)
    run = Run(quick_plan(extractor_train_steps=3))
    assert exit_code_of(run.train, lambda: "the log") == EXIT_TRAINING_ERROR
    shown = capsys.readouterr().err
    assert "error: extractor: the GPU" in shown or "error: extractor: PyTorch" in shown
    assert said in shown and remedy in shown and "Traceback" not in shown
    ended = read_status(run.folder)
    assert ended["exit_code"] == EXIT_TRAINING_ERROR and said in ended["exit_reason"]


def test_a_device_that_cannot_be_used_says_why(monkeypatch):
    def refuses(*_, **__):
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch, "empty", refuses)
    with pytest.raises(ModelError, match=r"too old for this PyTorch.*11040"):
        pick_device("cuda")


def test_a_fault_of_ours_shows_its_traceback_and_a_disk_does_not(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert exit_code_of(lambda: (tmp_path / "file" / "x").write_text(""), lambda: None) == 2
    assert "is a file, not a folder" in capsys.readouterr().err
    assert exit_code_of(lambda: 1 / 0, lambda: "the log") == EXIT_FAULT
    assert "ZeroDivisionError" in capsys.readouterr().err
