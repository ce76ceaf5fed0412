"""Sample prompts that change during a run, sheets by the clock and by strength, and which saved files are kept."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from library.drawing import sheet_maker
from library.dual_branch_scheduler import PRETRAINED_BRANCH
from library.errors import ConfigError, ModelError
from library.report.log import read_log
from library.training.contact_sheets import ContactSheets
from library.training.listeners import Listeners
from library.training.run import Run
from library.training.stage import Stage


def after_step(monkeypatch, step: int, do) -> None:
    step_of = Stage.step

    def stepped(self):
        row = step_of(self)
        if (self.name, self.done) == ("student", step):
            do()
        return row

    monkeypatch.setattr(Stage, "step", stepped)


def short(plan_of, **settings) -> Run:
    quick = {"eta": 0.0, "replay_images": 0, "audit": False}
    return Run(plan_of(**{**quick, "sample_every_n_steps": 1, **settings}))


def test_prompts_that_change_are_drawn_from_then_on(plan_of, monkeypatch):
    run = short(plan_of)
    file = run.settings.samples.sample_prompts
    after_step(monkeypatch, 1, lambda: Path(file).write_text("a [V] city\n"))
    assert [row.prompt for row in _train(run)] == ["a sks city"]


def test_a_mistake_in_changed_prompts_is_reported_once_and_the_old_ones_stay(plan_of, monkeypatch, capsys):
    run = short(plan_of)
    file = run.settings.samples.sample_prompts
    after_step(monkeypatch, 1, lambda: Path(file).write_text("a [V] city --q 3\n"))
    assert [row.prompt for row in _train(run)] == ["a sks dog", "a blue house"]
    assert capsys.readouterr().err.count('"--q" is not an option') == 1


def test_changed_prompts_are_encoded_away_from_the_device_that_the_transformer_is_on(plan_of, monkeypatch):
    run, where = short(plan_of), []
    model = run.plan.parts.model
    monkeypatch.setattr("library.models.sd3.model.encode_texts", lambda *given: where.append(given[3]) or [])
    model.device = torch.device("cuda")  # a stand-in: nothing is computed on it
    model.encode_text(["a dog"])
    model.__dict__["transformer"] = None
    model.encode_text(["a dog"])
    assert where == [torch.device("cuda"), torch.device("cpu")]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("no kernel")])
def test_changed_prompts_that_can_not_be_encoded_never_end_the_run(plan_of, monkeypatch, capsys, error):
    run = short(plan_of, max_train_steps=3)
    file, prepare = run.settings.samples.sample_prompts, run.plan.parts.texts.prepare

    def scarce(texts, *progress):
        if hasattr(run, "parts"):  # the transformer is loaded
            raise error
        prepare(texts, *progress)

    run.plan.parts.texts.prepare = scarce
    after_step(monkeypatch, 1, lambda: Path(file).write_text("a [V] city\n"))
    assert [row.prompt for row in _train(run)] == ["a sks dog", "a blue house"]
    assert capsys.readouterr().err.count("The run continues with the earlier prompts.") == 1


def test_a_sheet_that_does_not_fit_into_memory_is_left_out_and_the_run_continues(plan_of, monkeypatch, capsys):
    run = short(plan_of)

    def scarce(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(sheet_maker, "draw_as_set", scarce)
    files = run.train()
    said = capsys.readouterr().err
    assert said.count("could not be drawn (out of memory)") == 2
    assert {path.suffix for path in files} == {".safetensors"}, "there is no picture to put beside"


def _train(run: Run) -> list:
    run.train()
    return run.monitor.report.galleries["student"].rows


def test_pictures_of_the_pretrained_model_are_drawn_once_ever(plan_of, monkeypatch):
    first = _train(short(plan_of))
    drawn, draw = [], sheet_maker.draw_as_set
    monkeypatch.setattr(sheet_maker, "draw_as_set", lambda *args, **named: drawn.append(1) or draw(*args, **named))
    again = _train(short(plan_of))
    assert len(drawn) == 2 * 2  # two sheets, two prompts, only the student
    assert all(torch.equal(a.pictures[0], b.pictures[0]) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("line", "error"), [("a dog --w 37", ModelError), ("a dog --s 0", ConfigError), ("a dog --h 0", ConfigError)]
)
def test_prompts_that_can_not_be_drawn_are_refused_before_training(plan_of, tmp_path, line, error):
    (tmp_path / "bad.txt").write_text(line)
    with pytest.raises(error):
        plan_of(sample_prompts=str(tmp_path / "bad.txt"))


def test_a_sheet_is_due_by_the_clock(plan_of, monkeypatch):
    plan = short(plan_of, sample_every_n_steps=None, sample_every_n_minutes=5.0).plan
    now = [0.0]
    monkeypatch.setattr("library.training.contact_sheets.time.monotonic", lambda: now[0])
    drawn = ContactSheets(plan, Listeners())
    due = []
    for minutes in (0, 4.9, 5.0):
        now[0] = 60 * minutes
        due.append(drawn.due(7))
    assert due == [False, False, True]


def test_the_sheet_of_strengths_goes_from_nothing_to_the_student(plan_of):
    run = short(plan_of, student_embeddings="none", max_train_steps=2, learning_rate=0.1)
    student = _train(run)
    branch = run.student.branch
    maker = run.monitor.sheets.maker
    (shown,) = maker.strengths(run.folder / "s.png", "t", branch, [0.0, 0.999, 1.0], student)
    before, at_0, nearly_whole, whole = shown.pictures
    own = next(row for row in student if row.kind == "concept")
    rows = maker.make(run.folder / "p.png", "t", {"pretrained, with the trigger": PRETRAINED_BRANCH})
    torch.testing.assert_close(at_0, rows[0].pictures[1], atol=1e-4, rtol=1e-3)
    assert torch.equal(whole, own.pictures[1]) and torch.equal(before, own.pictures[0])
    torch.testing.assert_close(nearly_whole, whole, atol=1e-2, rtol=1e-2)
    assert (whole - at_0).abs().max() > 1e-3 and (run.folder / "s.png").is_file()


def test_prompts_of_one_text_are_each_drawn_from_their_own_seed_at_every_strength(plan_of, tmp_path):
    (tmp_path / "two.txt").write_text("a [V] dog --d 1\na [V] dog --d 2\n")
    run = short(plan_of, sample_prompts=str(tmp_path / "two.txt"))
    student = _train(run)
    rows = run.monitor.sheets.maker.strengths(run.folder / "s.png", "t", run.student.shown, [0.999, 1.0], student)
    for _, nearly_whole, whole in (row.pictures for row in rows):
        torch.testing.assert_close(nearly_whole, whole, atol=1e-2, rtol=1e-2)
    assert len(rows) == 2 and not torch.allclose(rows[0].pictures[2], rows[1].pictures[2], atol=1e-2)


def test_there_is_a_sheet_before_the_first_step_if_requested(plan_of):
    for wanted in (False, True):
        run = short(plan_of, sample_at_first=wanted)
        run.train()
        assert (run.folder / "samples" / "student_000000.png").is_file() is wanted


def test_sheets_of_large_pictures_are_drawn_smaller_in_the_same_shape(plan_of):
    plan = plan_of()
    assert plan.sheet_size == plan.replay_size == plan.size, "a small one stays as it is"
    dataset = replace(plan.config.datasets[0], resolution=(1024, 768))
    large = replace(plan, config=replace(plan.config, datasets=[dataset]))
    assert large.sheet_size == (640, 480) and large.replay_size == (768, 576)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"save_last_n_steps": 2}, [3, 4, 5]),
        ({"save_every_n_steps": None, "save_every_n_epochs": 1, "save_last_n_epochs": 2}, [2, 4]),
    ],
    ids=str,
)
def test_as_many_files_saved_on_the_way_are_kept_as_set(plan_of, settings, kept):
    """The numbers are as in sd-scripts; an epoch has two steps."""
    run = short(plan_of, **{"max_train_steps": 6, "save_every_n_steps": 1, "sample_every_n_steps": None, **settings})
    run.train()
    for ending in ("", "_diffusers", "_concept"):
        names = run.folder.glob(f"tiny-step????????{ending}.safetensors")
        assert sorted(int(path.name[9:17]) for path in names) == kept
    with (run.folder / "log.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = read_log(run.log.path)
    assert [(row["stage"], float(row["loss"])) for row in table] == [(row["stage"], row["loss"]) for row in rows]
