"""How to control a run from outside: commands in its folder, and every stop signal of the system."""

import os
import signal

import pytest

from library.data.latents import Latents
from library.errors import Interrupted
from library.report.log import read_log
from library.report.status import read_status
from library.training.control import COMMANDS, SAMPLE, SAVE, STOP, Control
from library.training.interrupt import StopRequest
from library.training.run import Run
from library.training.stage import Stage
from tests.helpers.datasets import in_batches_of
from tests.helpers.runs import assert_equal_files, student_file

QUICK = {"extractor_train_steps": 2, "max_train_steps": 3, "replay_images": 2, "context_vectors": 0}
PLAIN = {**QUICK, "extractor_train_steps": 0, "concept_embeddings": "none", "student_embeddings": "none"}
VECTORS = {**QUICK, "context_vectors": 2, "context_train_steps": 3}


def given_after(monkeypatch, stage: str, step: int, *commands: str) -> None:
    """Simulates another program that gives these commands during that step."""
    made = Stage.step

    def during(self):
        row = made(self)
        if (self.name, self.done) == (stage, step):
            give(*commands)
        return row

    def give(*names: str) -> None:
        for name in names:
            (folders[0] / name).touch()

    folders: list = []
    listening = Control.listening
    monkeypatch.setattr(Control, "listening", lambda self: (folders.append(self.folder), listening(self))[1])
    monkeypatch.setattr(Stage, "step", during)


# The folder


def test_a_command_counts_until_it_is_obeyed(tmp_path):
    control = Control(tmp_path)
    with control.listening():
        assert control.asked() == frozenset()
        (tmp_path / "control" / STOP).touch()
        (tmp_path / "control" / SAVE).write_text("whatever is in it")
        assert control.asked() == {STOP, SAVE} == control.asked()
        control.obeyed([SAVE])
        assert control.asked() == {STOP} and not (tmp_path / "control" / SAVE).exists()
    assert not (tmp_path / "control").exists()


def test_commands_of_an_earlier_run_do_not_count(tmp_path):
    (tmp_path / "control").mkdir()
    for name in (*COMMANDS, "notes.txt"):
        (tmp_path / "control" / name).touch()
    control = Control(tmp_path)
    with control.listening():
        assert control.asked() == frozenset()
        (tmp_path / "control" / SAMPLE).touch()
        assert control.asked() == {SAMPLE}
    assert [path.name for path in (tmp_path / "control").iterdir()] == ["notes.txt"], "what is not ours stays"


def test_what_is_not_a_command_is_reported_once_with_the_nearest_one(tmp_path, capsys):
    control = Control(tmp_path)
    with control.listening():
        for name in ("stopp", "STOP.txt", "finish", ".stop.swp"):
            (tmp_path / "control" / name).touch()
        assert control.asked() == control.asked() == frozenset()
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 3 and ".swp" not in "".join(said)
        assert sum('Did you mean "stop"?' in line for line in said) == 2
        assert '"finish"' in said[1] and "sample, save, stop" in said[1]


def test_a_command_that_can_not_be_removed_is_obeyed_once(tmp_path, monkeypatch):
    control = Control(tmp_path)
    with control.listening():
        file = tmp_path / "control" / SAMPLE
        file.touch()
        with monkeypatch.context() as windows:
            windows.setattr("library.training.control.remove", lambda path: None)
            control.obeyed(control.asked())
            assert control.asked() == frozenset()
        file.unlink()
        assert control.asked() == frozenset()
        file.touch()
        assert control.asked() == {SAMPLE}


def test_a_folder_that_is_taken_away_costs_nothing(tmp_path):
    control = Control(tmp_path)
    with control.listening():
        (tmp_path / "control").rmdir()
        assert control.asked() == frozenset()
        control.obeyed(COMMANDS)


# In a run


@pytest.mark.parametrize("stage", ["extractor", "student"])
def test_stop_saves_after_the_step_and_the_run_continues_as_if_it_had_not(plan_of, monkeypatch, tmp_path, stage):
    whole = Run(plan_of(**QUICK, output_dir=str(tmp_path / "whole")))
    whole.train()
    given_after(monkeypatch, stage, 1, STOP)
    run = Run(plan_of(**QUICK))
    with pytest.raises(Interrupted, match="Everything is saved"):
        run.train()
    monkeypatch.undo()
    assert read_log(run.log.path)[-1]["stage"] == stage and read_log(run.log.path)[-1]["step"] == 1
    assert not (run.folder / "control").exists() and read_status(run.folder)["exit_code"] == 130
    again = Run(plan_of(**QUICK, resume="auto"))
    again.train()
    assert_equal_files(student_file(whole), student_file(again))


@pytest.mark.parametrize("stage", ["extractor", "student"])
def test_sample_and_save_do_so_and_change_nothing(plan_of, monkeypatch, tmp_path, stage):
    whole = Run(plan_of(**QUICK, sample_every_n_steps=None, output_dir=str(tmp_path / "whole")))
    whole.train()
    given_after(monkeypatch, stage, 1, SAMPLE, SAVE)
    run, seen = Run(plan_of(**QUICK, sample_every_n_steps=None)), {}
    obeyed = run.control.obeyed

    def look(commands):
        if commands == {SAMPLE, SAVE}:
            seen.update({path.name: path for path in run.folder.rglob("*") if path.is_file()})
        obeyed(commands)

    run.control.obeyed = look
    run.train()
    expected = {
        "extractor": {"extractor.png", "tiny_extractor.safetensors"},
        "student": {"student_000001.png", "tiny-step00000001.safetensors", "tiny-step00000001_concept.safetensors"},
    }
    assert expected[stage] <= set(seen) and any("step-" in str(path.parent) for path in seen.values())
    assert_equal_files(student_file(whole), student_file(run))


def test_stop_is_heard_wherever_there_are_rounds(plan_of, monkeypatch):
    """While caching and in the context's steps; nothing that exists already is lost."""
    for phase in ("latents", "context"):
        run = Run(plan_of(**VECTORS, overwrite=True))
        rounds = []

        def counted(name, phase=phase, run=run, rounds=rounds):
            def over(items):
                for item in items:
                    yield item
                    if name == phase:
                        rounds.append(item)
                        (run.folder / "control" / STOP).touch()

            return over

        monkeypatch.setattr("library.training.run.bar_over", counted)
        with pytest.raises(Interrupted, match="--resume auto" if phase == "words" else "from the beginning"):
            run.train()
        assert len(rounds) == 1 and read_status(run.folder)["state"] == "stopped", phase
        if phase == "words":
            assert (run.folder / "tiny.safetensors").is_file()


def test_all_processes_stop_after_the_same_step(plan_of, in_two, monkeypatch):
    plan = plan_of(in_batches_of(1), 2, **PLAIN)
    given_after(monkeypatch, "student", 2, STOP)
    folder = plan.settings.output_dir
    made = Stage.step

    def only_main_is_asked(self):
        return made(self) if self.processes.main else Stage_step(self)

    monkeypatch.setattr(Stage, "step", only_main_is_asked)
    assert in_two(lambda processes: Run(plan, processes).train()) == [130, 130]
    assert [row["step"] for row in read_log(folder / "log.jsonl")] == [1, 2]


Stage_step = Stage.step


def test_the_other_process_stops_as_the_main_one_while_that_one_alone_has_something_to_do(
    plan_of,
    in_two,
    monkeypatch,
):
    plan = plan_of(in_batches_of(1), 2, **PLAIN)
    prepare = Latents.prepare

    def asked(self, pictures, progress=iter):
        (plan.settings.output_dir / "control" / STOP).touch()
        prepare(self, pictures, progress)

    monkeypatch.setattr(Latents, "prepare", asked)
    assert in_two(lambda processes: Run(plan, processes).train()) == [130, 130]


# Signals


def test_ctrl_break_of_windows_stops_a_run_as_ctrl_c_does(monkeypatch):
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    with StopRequest() as stop, stop.at_end_of_step():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.made
        with pytest.raises(KeyboardInterrupt, match="at once"):
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_where_no_step_is_made_stops_at_once_and_in_a_sentence(plan_of, monkeypatch, name):
    monkeypatch.setattr(Latents, "prepare", lambda *_: os.kill(os.getpid(), getattr(signal, name)))
    before = signal.getsignal(getattr(signal, name))
    run = Run(plan_of(**PLAIN))
    heard = signal.SIG_DFL if before == signal.SIG_IGN else before  # the tests may run under nohup
    signal.signal(getattr(signal, name), heard)
    try:
        with pytest.raises(Interrupted, match="The cache is kept"):
            run.train()
        assert read_status(run.folder)["state"] == "stopped" and signal.getsignal(getattr(signal, name)) == heard
    finally:
        signal.signal(getattr(signal, name), before)


def test_nohup_stays_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop, stop.at_end_of_step():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.made
    finally:
        signal.signal(signal.SIGHUP, before)
