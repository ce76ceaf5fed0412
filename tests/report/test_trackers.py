"""Where values go besides the log: TensorBoard, and wandb if installed."""

import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from library.errors import ConfigError
from library.report.log import RunLog
from library.report.trackers import Tracking
from library.report.tracking import tracking_of
from library.training.run import Run

STEPS = {"extractor": 2, "student": 2}


class FakeWandb:
    """Records its input, which the package would send."""

    def __init__(self) -> None:
        self.begun, self.logged, self.ended = [], [], 0
        self.Image = lambda path: ("picture", path)

    def init(self, **given):
        if given.get("group") == "wrong":
            raise ValueError("no such group")
        self.begun.append(given)
        log = lambda values, step: self.logged.append((step, values))  # noqa: E731
        return SimpleNamespace(id=given["id"] or "run1", log=log, finish=self._finish)

    def _finish(self) -> None:
        self.ended += 1


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("library.report.trackers.importlib.util.find_spec", lambda name: name)
    return fake


def test_wandb_gets_every_number_with_steps_that_count_through_and_the_sheets(wandb, tmp_path):
    log = RunLog(tmp_path, STEPS, None, Tracking("wandb", project="p", name="n", offline=True))
    log.write({"stage": "extractor", "step": 2, "loss": 1.0, "by_sigma": {}})
    log.write({"stage": "student", "step": 1, "loss": 0.5, "skipped": "nan"})
    log.picture("samples/student", tmp_path / "s.png")
    log.close()
    assert wandb.logged == [
        (2, {"extractor/loss": 1.0}),
        (3, {"student/loss": 0.5}),
        (3, {"samples/student": ("picture", str(tmp_path / "s.png"))}),
    ]
    (begun,) = wandb.begun
    assert (begun["project"], begun["name"], begun["mode"], begun["config"]) == ("p", "n", "offline", None)
    assert wandb.ended == 1


def test_a_resumed_run_continues_in_the_same_run_of_wandb_and_a_new_one_does_not(wandb, tmp_path):
    for done in (None, {"extractor": 1}, None):
        RunLog(tmp_path, STEPS, done, Tracking("wandb")).close()
    assert [begun["id"] for begun in wandb.begun] == [None, "run1", None]


def test_without_the_package_a_sentence_comes_before_anything_is_computed(plan_of, monkeypatch):
    monkeypatch.setattr("library.report.trackers.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="wandb is not installed") as error:
        Run(plan_of(log_with="all"))
    assert "pip install wandb" in error.value.remedy


def test_what_wandb_refuses_is_a_sentence(wandb, tmp_path):
    with pytest.raises(ConfigError, match=r"wandb .*: no such group"):
        RunLog(tmp_path, STEPS, None, Tracking("wandb", arguments={"group": "wrong"}))


def test_the_settings_say_where_and_how_and_nothing_is_sent_unless_asked(wandb, plan_of, tmp_path):
    (tmp_path / "t.toml").write_text('[wandb]\ngroup = "dogs"\n')
    given = {"log_with": "wandb", "log_tracker_config": str(tmp_path / "t.toml"), "wandb_run_name": "rex"}
    settings = plan_of(**given, logging_dir=str(tmp_path / "logs"), log_prefix="a_").settings
    tracking = tracking_of(settings)
    assert (tracking.name, tracking.arguments, tracking.config) == ("rex", {"group": "dogs"}, None)
    assert tracking.events == tmp_path / "logs" / "a_tiny"
    assert tracking_of(plan_of(log_with="wandb", log_config=True).settings).config["optimizer"]["max_train_steps"] == 2


def test_tensorboard_keeps_numbers_and_sheets_in_the_folder_that_is_named(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Image.new("RGB", (4, 4)).save(tmp_path / "s.png")
    log = RunLog(tmp_path, STEPS, None, Tracking("tensorboard", events=tmp_path / "logs" / "tiny"))
    log.write({"stage": "student", "step": 1, "loss": 0.5})
    log.picture("samples/student", tmp_path / "s.png")
    log.close()
    events = EventAccumulator(str(tmp_path / "logs" / "tiny"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("student/loss")] == [(3, 0.5)]
    assert events.Tags()["images"] == ["samples/student"]


def test_the_real_wandb_keeps_its_files_offline(tmp_path):
    pytest.importorskip("wandb", reason="wandb is optional, and not installed here")
    log = RunLog(tmp_path, STEPS, None, Tracking("wandb", offline=True))
    log.write({"stage": "student", "step": 1, "loss": 0.5})
    log.close()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert json.loads((tmp_path / "wandb_run.json").read_text())["id"]
