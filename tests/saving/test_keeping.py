"""What a run keeps: its best files, states to resume from, the student's average, and a start from earlier results."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import TomlFile, read_settings
from library.config.saving_settings import SavingSettings
from library.errors import ConfigError, ModelError
from library.files.checkpoint import load_state
from library.models.sd3.layouts.known import LAYOUTS
from library.preflight.forecast import count_step
from library.preflight.plan import make_plan
from library.report.log import read_log
from library.saving.keeping import Keeping, saved_on_the_way
from library.training.contact_sheets import ContactSheets
from library.training.resuming import shaping
from library.training.run import Run
from library.training.scenes import SceneMaker
from library.training.stage import Stage
from tests.helpers.datasets import DATASET
from tests.helpers.places import content_of
from tests.helpers.runs import PLAIN_LORA, Calling, assert_equal_files, stopped_after, student_file, trained

pytestmark = pytest.mark.usefixtures("shared_cache")

QUICK = {
    **PLAIN_LORA,
    "extractor_train_steps": 0,
    "max_train_steps": 4,
    "audit": False,
    "sample_steps": 1,
    "save_formats": ["kohya"],
    "save_precision": "float",
}
VALIDATED = DATASET.replace("batch_size = 2", "validation_split = 0.5")


@pytest.fixture
def quick(plan_of, tmp_path):
    """Runs of plain LoRAs with a few steps; each named one has its own folder."""

    def make(folder: str = "output", dataset: str | None = None, **settings) -> Run:
        return Run(plan_of(dataset, **{**QUICK, "output_dir": str(tmp_path / folder), **settings}))

    return make


# The best


def test_the_best_are_those_of_the_least_loss_and_of_equal_ones_the_earlier(tmp_path):
    losses = {1: 0.5, 2: 0.2, 3: 0.2, 4: 0.9}
    rows = [{"stage": "student", "step": step, "validation": loss} for step, loss in losses.items()]
    rows += [{"stage": "student", "step": 5}, {"stage": "extractor", "step": 6, "validation": 0.0}]
    for count, steps in ((None, []), (1, [2]), (3, [2, 3, 1])):
        assert Keeping(SavingSettings(save_best_n=count), tmp_path).best(rows) == steps


def test_what_was_saved_on_the_way_is_known_by_its_name(tmp_path):
    for name in ("a-step00000002", "a-best-step00000001_concept", "a", "ab-step00000002", "a-step2"):
        (tmp_path / f"{name}.safetensors").touch()
    found = {path.stem: step for path, step in saved_on_the_way(tmp_path, "a").items()}
    assert found == {"a-step00000002": 2, "a-best-step00000001_concept": 1}
    assert saved_on_the_way(tmp_path / "nowhere", "a") == {}


def test_the_files_of_the_steps_with_the_least_validation_loss_are_kept(quick, monkeypatch):
    losses = iter([5.0, 3.0, 4.0, 1.0, 2.0])
    run = quick(dataset=VALIDATED, max_train_steps=5, validate_every_n_steps=1, save_best_n=2)
    monkeypatch.setattr(run.validation, "of", lambda *_: next(losses))
    seen = []
    run.listeners.add([Calling(step_made=lambda *_: seen.append(_best_of(run)))])
    run.train()
    assert [*seen, _best_of(run)] == [[], [1], [1, 2], [2, 3], [2, 4], [4, 5]]
    report = (run.folder / "report.html").read_text()
    assert "validation loss" in report and "tiny-best-step00000004.safetensors" in report


def _best_of(run: Run) -> list[int]:
    return sorted(int(path.stem[-8:]) for path in run.folder.glob("tiny-best-step????????.safetensors"))


def test_a_resumed_run_keeps_the_same_best_files(quick, monkeypatch):
    given = {"dataset": VALIDATED, "validate_every_n_steps": 1, "save_best_n": 1, "save_state_every_n_steps": 1}
    whole = trained(quick("whole", **given))
    run = quick("cut", **given)
    stopped_after(3, run, monkeypatch)
    resumed = trained(quick("cut", **given, resume="auto"))
    assert _best_of(resumed) == _best_of(whole)
    (name,) = (path.name for path in whole.folder.glob("tiny-best*"))
    assert_equal_files(load_file(whole.folder / name), load_file(resumed.folder / name))
    assert resumed.monitor.report.files[resumed.folder / name] == _best_of(whole)[0]


def test_the_best_of_nothing_is_refused_before_training(quick):
    with pytest.raises(ConfigError, match="save_best_n keeps the files") as error:
        quick(save_best_n=1)
    assert "validation_split" in error.value.remedy


# States


def test_a_kept_state_trains_on_to_what_a_longer_run_would_have_been(quick):
    longer = trained(quick("longer"))
    short = trained(quick("short", max_train_steps=2, save_state_on_train_end=True))
    again = quick("again", resume=str(short.folder / "tiny-state"))
    assert again.resumed.position.done["student"] == 2
    assert_equal_files(student_file(longer), student_file(trained(again)))


def test_a_run_that_is_done_is_in_nobodys_way(quick):
    first = trained(quick(save_state_on_train_end=True))
    assert [path.name for path in first.states.folder.iterdir()] == ["final"]
    assert quick().resumed is None and not quick().done, "a new run begins anew"


def test_a_run_that_is_done_is_not_done_again(quick, monkeypatch, capsys):
    """The same command with --resume auto reports that, with or without a state, and changes nothing."""
    for name, kept in (("one", {}), ("two", {"save_state_on_train_end": True})):
        first = trained(quick(name, **kept))
        before = content_of(first.folder)
        with monkeypatch.context() as patch:
            patch.setattr(Stage, "step", lambda self: pytest.fail("it trains"))
            again = quick(name, **kept, resume="auto")
            assert again.train() == [first.folder / "tiny.safetensors", *beside(first)]
        assert content_of(first.folder) == before
        said = capsys.readouterr().err
        assert "it is finished: tiny, 4 steps of the student" in said and "--overwrite" in said
        assert ("raise max_train_steps" in said) == bool(kept)
        assert not quick(name, **kept, resume="auto", overwrite=True).done


def beside(run: Run) -> list[Path]:
    return [run.folder / "tiny.preview.png", run.folder / "tiny.json"]


def test_a_run_that_is_done_continues_to_more_steps_as_if_it_had_been_longer(quick, monkeypatch):
    longer = trained(quick("longer"))
    trained(quick("short", max_train_steps=2, save_state_on_train_end=True))
    grown = {"save_state_on_train_end": True, "save_state_every_n_steps": 1, "resume": "auto"}
    again = quick("short", **grown)
    assert again.resumed.position.done["student"] == 2
    stopped_after(3, again, monkeypatch)
    again = quick("short", **grown)
    assert again.resumed.position.done["student"] == 3, "it is an unfinished run by now"
    assert_equal_files(student_file(longer), student_file(trained(again)))
    assert quick("short", **grown).done.steps == 4


def test_a_run_that_is_done_and_kept_no_state_says_why_it_can_not_be_longer(quick):
    trained(quick(max_train_steps=2))
    with pytest.raises(
        ConfigError, match=r"finished after 2 steps of the student\. To train 4 steps, .* not kept"
    ) as error:
        quick(resume="auto")
    assert "save_state_on_train_end" in error.value.remedy
    with pytest.raises(ConfigError, match="resume: learning_rate was "):
        quick(max_train_steps=2, learning_rate=0.1, resume="auto")


def test_a_run_whose_files_are_gone_is_not_done(quick, monkeypatch):
    for kept in (False, True):
        first = trained(quick(str(kept), save_state_on_train_end=kept))
        expected = student_file(first)
        (first.folder / "tiny.safetensors").unlink()
        again = quick(str(kept), save_state_on_train_end=kept, resume="auto")
        assert not again.done and bool(again.resumed) == kept
        assert_equal_files(expected, student_file(trained(again)))


def test_a_new_run_in_the_folder_of_one_that_is_done_is_not_taken_for_it(quick, monkeypatch):
    trained(quick(save_state_on_train_end=True))
    stopped_before_any_state = quick(save_state_on_train_end=True, save_state_every_n_steps=100)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "build_student", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stopped_before_any_state.train()
    again = quick(save_state_on_train_end=True, resume="auto")
    assert not again.done and again.resumed is None


def test_a_run_that_was_killed_when_all_was_done_but_the_status_says_so_later(quick):
    first = trained(quick())
    status = json.loads((first.folder / "status.json").read_text())
    (first.folder / "status.json").write_text(json.dumps({**status, "state": "running", "exit_code": None}))
    trained(quick(resume="auto"))
    again = json.loads((first.folder / "status.json").read_text())
    assert (again["state"], again["exit_code"], again["step"]) == ("done", 0, status["step"])


def test_states_are_kept_next_to_files_as_in_sd_scripts(quick):
    run = trained(quick(max_train_steps=5, save_every_n_steps=1, save_state=True, save_last_n_steps_state=1))
    names = sorted(path.name for path in run.folder.glob("tiny*-state"))
    assert names == ["tiny-state", "tiny-step00000003-state", "tiny-step00000004-state"]
    assert len(list(run.folder.glob("tiny-step*.safetensors"))) == 4
    going_on = trained(quick("on", max_train_steps=5, resume=str(run.folder / "tiny-step00000003-state")))
    assert_equal_files(student_file(run), student_file(going_on))


def test_a_run_that_was_started_with_relative_paths_continues_by_its_config(quick, monkeypatch, tiny_model):
    monkeypatch.chdir(tiny_model.parent)
    run = quick(pretrained_model_name_or_path=tiny_model.name, save_state_every_n_steps=1)
    stopped_after(2, run, monkeypatch)
    file = TomlFile(run.folder / "config.toml")
    read = read_settings(file, {"resume": "auto"})
    again = Run(make_plan(read, read_concepts_and_pictures(file, read)))
    assert again.resumed.position.done["student"] == 2


def test_without_a_wish_nothing_is_left_of_states(quick):
    run = trained(quick(save_every_n_steps=2))
    assert not list(run.folder.glob("*-state"))


def test_only_how_long_and_from_where_may_differ_from_a_state(quick):
    kept = str(trained(quick(max_train_steps=2, save_state=True)).folder / "tiny-state")
    with pytest.raises(ConfigError, match="resume: learning_rate was "):
        quick("on", resume=kept, learning_rate=0.1)


# Where stage 2 starts


def seen_by(run: Run, monkeypatch) -> list[int]:
    """The numbers of the batches in every step of stage 2."""
    seen, reference = [], SceneMaker.reference

    def noting(self, number):
        seen.append(number)
        return reference(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(SceneMaker, "reference", noting)
        run.train()
    return seen


@pytest.mark.parametrize(("skip", "numbers"), [(True, [3, 4]), (False, [0, 1])])
def test_initial_step_counts_on_and_skips_data_only_if_told_to(quick, monkeypatch, skip, numbers):
    run = quick(max_train_steps=5, initial_step=3, skip_until_initial_step=skip)
    assert seen_by(run, monkeypatch) == numbers
    assert [row["step"] for row in read_log(run.log.path)] == [4, 5]


def test_initial_epoch_is_counted_in_epochs_from_1_and_initial_step_beats_it(quick):
    per_epoch = quick().plan.order.batches_per_epoch
    assert quick(initial_epoch=2).settings.optimizer.initial_step == per_epoch
    assert quick(initial_epoch=1).settings.optimizer.initial_step == 0
    assert quick(initial_epoch=2, initial_step=1).settings.optimizer.initial_step == 1
    with pytest.raises(ConfigError, match="initial_step is "):
        quick(initial_step=4)


def test_initial_step_beats_the_step_of_a_state_that_is_named(quick):
    kept = str(trained(quick(max_train_steps=2, save_state=True)).folder / "tiny-state")
    run = trained(quick("on", resume=kept, initial_step=0, max_train_steps=3))
    assert [row["step"] for row in read_log(run.log.path)] == [1, 2, 3]


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_a_student_continues_from_a_file(quick, layout):
    first = trained(quick("first", save_formats=[layout], max_train_steps=2))
    file = first.folder / f"tiny{LAYOUTS[layout].ending}.safetensors"
    run = trained(quick(network_weights=str(file), learning_rate=0.0))
    for one, two in zip(first.parts.network.weights("student").values(), _student(run), strict=True):
        torch.testing.assert_close(one.delta(), two.delta(), rtol=1e-5, atol=1e-8)


def _student(run: Run):
    return run.parts.network.weights("student").values()


def test_rank_and_scale_come_from_the_file_if_wanted_and_a_larger_rank_is_refused(quick):
    first = trained(quick("first", network_dim=6, network_alpha=3.0, max_train_steps=1))
    file = str(first.folder / "tiny.safetensors")
    run = trained(quick("on", network_weights=file, dim_from_weights=True, learning_rate=0.0))
    assert (run.settings.network.network_dim, run.settings.network.network_alpha) == (6, 3.0)
    with pytest.raises(ConfigError, match="has rank 6, but network_dim is 4"):
        quick("no", network_weights=file)
    wider = trained(quick("wider", network_weights=file, network_dim=8, network_alpha=1.0, learning_rate=0.0))
    for one, two in zip(_student(first), _student(wider), strict=True):
        torch.testing.assert_close(one.delta(), two.delta(), rtol=1e-5, atol=1e-8)


def test_layers_that_do_not_learn_are_named(quick):
    first = trained(quick("first", max_train_steps=1))
    given = {"network_weights": str(first.folder / "tiny.safetensors"), "target_modules": ["to_q"]}
    with pytest.raises(ModelError, match="layers that are not trained here") as error:
        quick("on", **given).train()
    assert "target_modules" in error.value.remedy


# The average


def test_the_saved_student_is_the_average_of_its_steps(quick, monkeypatch):
    """Computed by hand: in step n the past counts min(decay, n / (9 + n)), in the first step 0."""
    weights, made = [], Stage.step

    def watched(self):
        row = made(self)
        weights.append([one.detach().clone() for one in self._parameters()])
        return row

    monkeypatch.setattr(Stage, "step", watched)
    run = trained(quick(ema_decay=0.2))
    average = weights[0]
    for number, after in enumerate(weights[1:], 1):
        past = min(0.2, (1 + number) / (10 + number))
        average = [past * old + (1 - past) * new for old, new in zip(average, after, strict=True)]
    for one, two in zip(average, run.parts.network.parameters("student"), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)
    assert not torch.equal(weights[-1][1], run.parts.network.parameters("student")[1])


def test_an_average_does_not_change_what_is_trained(quick, monkeypatch):
    plain, averaged = quick("plain"), quick("averaged", ema_decay=0.9, save_every_n_steps=1, sample_every_n_steps=1)
    ends = []
    for run in (plain, averaged):
        stages = []
        run.listeners.add([Calling(stage_begun=stages.append)])
        run.train()
        ends.append(stages[-1].state()["optimizer"]["state"])
    for one, two in zip(ends[0].values(), ends[1].values(), strict=True):
        assert torch.equal(one["exp_avg"], two["exp_avg"])
    losses = [[row["loss"] for row in read_log(run.log.path)] for run in (plain, averaged)]
    assert losses[0] == losses[1]


def test_a_resumed_average_ends_bit_for_bit_as_if_it_had_never_stopped(quick, monkeypatch):
    given = {"ema_decay": 0.5, "save_state_every_n_steps": 1, "network_dropout": 0.1}
    whole = trained(quick("whole", **given))
    run = quick("cut", **given)
    stopped_after(3, run, monkeypatch)
    resumed = trained(quick("cut", **given, resume="auto"))
    assert_equal_files(student_file(whole), student_file(resumed))


def test_files_saved_on_the_way_hold_the_average_too(quick):
    run = trained(quick(ema_decay=0.5, save_every_n_steps=3))
    to_3 = trained(quick("to_3", ema_decay=0.5, max_train_steps=3))
    assert_equal_files(load_file(run.folder / "tiny-step00000003.safetensors"), student_file(to_3))


def test_the_planner_counts_the_average(plan_of):
    plain, averaged = (count_step(plan_of(ema_decay=decay), "student") for decay in (None, 0.9))
    assert averaged.footprint.weights - plain.footprint.weights == 4 * plain.learning


def test_an_average_in_bf16_is_refused():
    given = {"full_bf16": True, "ema_decay": 0.9}
    with pytest.raises(ConfigError, match="ema_decay has no effect"):
        read_settings(None, {"pretrained_model_name_or_path": "m", **given})


# What a state holds


def test_a_state_knows_its_settings(quick):
    run = trained(quick(max_train_steps=2, save_state=True))
    state = load_state(run.folder / "tiny-state" / "final", shaping(run.plan))
    assert state.position.done == {"student": 2}


def test_the_config_of_a_run_reads_back_to_the_same_settings(quick):
    run = trained(quick(max_train_steps=1, ema_decay=0.9, log_prefix="x_"))
    again = read_settings(TomlFile(run.folder / "config.toml"))
    assert again.optimizer == run.settings.optimizer and again.saving == run.settings.saving
    assert json.loads((run.folder / "status.json").read_text())["state"] == "done"


# Optimizers whose result is an average of the weights that they train with


AVERAGING = {"optimizer_type": "tests.helpers.averaging.Averaging", "learning_rate": 0.5, "save_state_every_n_steps": 1}
LOOKS = {"sample_every_n_steps": 1, "save_every_n_steps": 1, "validate_every_n_steps": 1, "save_best_n": 1}


def means(run: Run, monkeypatch, stage: str = "student") -> list[list[torch.Tensor]]:
    """Trains a run; returns the mean of a stage's weights until each step."""
    seen, made = [], Stage.step

    def step(self):
        row = made(self)
        if self.name == stage:
            seen.append([weight.detach().clone() for one in self.update.learners for weight in one.parameters])
        return row

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "step", step)
        run.train()
    return [[torch.stack(some).mean(0) for some in zip(*seen[: end + 1], strict=True)] for end in range(len(seen))]


def assert_holds(file: Path, weights: list[torch.Tensor]) -> None:
    """That a file holds these weights, whatever it calls them."""
    saved = list(load_file(file).values())
    for weight in weights:
        assert any(one.shape == weight.shape and torch.allclose(one, weight, atol=1e-6) for one in saved), file.name


def test_what_is_saved_drawn_and_measured_is_the_average_of_the_optimizer(quick, monkeypatch):
    run = quick(dataset=VALIDATED, save_formats=["diffusers"], sample_at_first=True, **AVERAGING, **LOOKS)
    drawn, measured, validation = [], [], run.validation.of

    def weights() -> list[torch.Tensor]:
        return [weight.detach().clone() for weight in run.parts.network.parameters("student")]

    monkeypatch.setattr(ContactSheets, "student", lambda self, branch, stage, beside=None: drawn.append(weights()))
    monkeypatch.setattr(run.validation, "of", lambda *given: measured.append(weights()) or validation(*given))
    mean = means(run, monkeypatch)
    for index, expected in enumerate(mean):
        for looked in (drawn[index + 1], measured[index]):
            torch.testing.assert_close(looked, expected)
    (on_the_way,) = run.folder.glob("tiny-step00000002*.safetensors")
    assert_holds(on_the_way, mean[1])
    (final,) = (path for path in run.folder.glob("tiny*.safetensors") if "step" not in path.name)
    assert_holds(final, mean[3])


def test_the_saved_extractor_is_the_average_of_the_optimizer(quick, monkeypatch):
    run = quick(**AVERAGING, extractor_train_steps=3, max_train_steps=1, eta=0.5)
    assert_holds(run.folder / "tiny_extractor.safetensors", means(run, monkeypatch, "extractor")[-1])


def test_looks_and_a_stop_change_nothing_of_an_averaging_run(quick, monkeypatch):
    given = {**AVERAGING, **LOOKS, "dataset": VALIDATED}
    run = quick("cut", **given)
    stopped_after(2, run, monkeypatch)
    resumed = trained(quick("cut", **given, resume="auto"))
    quiet = trained(quick("quiet", **AVERAGING, dataset=VALIDATED))
    assert_equal_files(student_file(resumed), student_file(quiet))
