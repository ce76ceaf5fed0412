"""Listeners of a run: notified in order, none in other processes, and none changes the training."""

from types import SimpleNamespace

import pytest

from library.errors import StorageError, TrainingError
from library.report.log import read_log
from library.training.listeners import Listener, Listeners
from library.training.run import Run
from tests.helpers.datasets import in_batches_of
from tests.helpers.runs import assert_equal_files, student_file

QUICK = {"extractor_train_steps": 1, "max_train_steps": 2, "replay_images": 0, "context_vectors": 0}
HOOKS = {name for name in vars(Listener) if not name.startswith("_")}


class Told(Listener):
    """Records its notifications."""

    def __init__(self, heard: list) -> None:
        self.heard = heard


for name in HOOKS:
    setattr(Told, name, lambda self, *given, name=name: self.heard.append(name))


def test_all_are_notified_in_order_and_a_listener_needs_no_hook_that_it_has_nothing_to_say_to():
    first, second = [], []
    listeners = Listeners()
    listeners.add([Told(first), Listener(), Told(second)])
    with pytest.raises(KeyError), listeners.to_the_end(), listeners.phase("text"):
        raise KeyError
    assert first == second == ["phase_begun", "phase_ended", "ended"]


def test_a_stage_and_its_phase_end_however_they_end():
    heard, listeners = [], Listeners()
    listeners.add([Told(heard)])
    with pytest.raises(TrainingError, match="memory"), listeners.stage(SimpleNamespace(name="student")):
        raise MemoryError
    assert heard == ["stage_begun", "phase_begun", "phase_ended", "stage_ended"]


@pytest.mark.parametrize("error", [StorageError("the disk is full"), ZeroDivisionError()], ids=str)
def test_what_is_harmless_is_reported_and_costs_nothing(capsys, error):
    with Listeners().harmless("a look", "it could not be looked at"):
        raise error
    assert "WARNING: it could not be looked at" in capsys.readouterr().err


def test_a_hook_that_is_added_does_nothing_in_other_processes(plan_of, in_two):
    """Automatically."""
    plan = plan_of(in_batches_of(1), 2, **QUICK)

    def added(self, heard: list) -> None:
        heard.append(type(self))

    def work(processes) -> None:
        Listener.added = added
        run, heard = Run(plan, processes), []
        run.train()
        run.listeners.tell(Listener.added, heard)
        assert bool(heard) is (run.monitor is not None) is processes.main

    assert in_two(work) == [0, 0]


def test_listeners_change_nothing_of_what_is_trained(plan_of, monkeypatch, tmp_path):
    given = {**QUICK, "sample_every_n_steps": 1, "save_every_n_steps": 1, "sample_strengths": [1.0]}
    shown, alone = Run(plan_of(**given)), Run(plan_of(**given, output_dir=str(tmp_path / "alone")))
    shown.train()
    with monkeypatch.context() as patch:
        patch.setattr(Run, "open_log", lambda self: None)
        alone.train()
    assert alone.monitor is None and not read_log(alone.folder / "log.jsonl")
    assert not (alone.folder / "samples").exists() and (shown.folder / "samples").is_dir()
    assert_equal_files(student_file(shown), student_file(alone))
