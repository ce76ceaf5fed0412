"""Several processes make the same step as one process with the whole batch, and one of them writes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from library.errors import ConfigError, StorageError
from library.files.folder_lock import FolderLock
from library.report.log import read_log
from library.report.status import read_status
from library.training.interrupt import StopRequest
from library.training.processes import MainStopped, Processes, ProcessLost, joined, left_out
from library.training.run import Run
from library.training.stage import Stage
from tests.helpers.commands import DEMO, QUICK, environment, folders
from tests.helpers.datasets import in_batches_of
from tests.helpers.places import ROOT
from tests.helpers.runs import difference
from tests.helpers.small_disk import fill_up, small_disk

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
PATIENCE = 1800
"""Seconds after which processes that wait for each other will do so for ever, on the slowest of computers."""
FOR_EVER = "1000000"
"""Steps that no computer makes before it is stopped."""
LAUNCH = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")


def student_in(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "tiny.safetensors") | load_file(folder / "tiny_concept.safetensors")


def images_of(row) -> dict[str, int]:
    return {level: measures["images"] for level, measures in row["by_sigma"].items()}


# Arithmetic


@pytest.mark.parametrize(("rows", "count"), [(4, 2), (5, 2), (1, 2), (7, 3)])
def test_the_shares_of_a_batch_are_all_of_it_once_and_even(rows, count):
    shares = [list(range(rows))[Processes(count, number).share(rows)] for number in range(count)]
    assert [row for share in shares for row in share] == list(range(rows)) and max(map(len, shares)) - min(
        map(len, shares)
    ) <= 1


@pytest.mark.parametrize("at_once", [2**24, 4])
def test_gradients_add_up_and_what_none_learned_stays_without(in_two, monkeypatch, at_once):
    monkeypatch.setattr("library.training.processes.AT_ONCE", at_once)

    def work(processes: Processes) -> None:
        shared, mine, nobodys = (nn.Parameter(torch.zeros(3)) for _ in range(3))
        shared.grad, half = torch.full((3,), 1.0 + processes.number), nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
        half.grad = torch.ones_like(half)
        if not processes.main:
            mine.grad = torch.ones(3)
        processes.add_up_gradients([shared, mine, nobodys, half])
        assert half.grad.dtype == torch.bfloat16 and half.grad.item() == 2
        assert shared.grad.tolist() == [3.0] * 3 and mine.grad.tolist() == [1.0] * 3 and nobodys.grad is None
        assert processes.least(5 + processes.number) == 5 and processes.any(processes.number == 1)
        assert not processes.any(False) and processes.gathered([processes.number]) == [0, 1]

    assert in_two(work) == [0, 0]


def test_an_error_of_the_main_process_ends_the_others_and_leaves_none_waiting(in_two, tmp_path):
    """As with a folder that another run uses, and with a disk that is full while caching."""
    locked = FolderLock(tmp_path / "out")

    def work(processes: Processes) -> None:
        with processes.main_holds(FolderLock(tmp_path / "free")):
            assert (tmp_path / "free" / ".lock.json").is_file()
            processes.any(False)  # the main one releases it when it leaves
        expected = ConfigError if processes.main else MainStopped
        with pytest.raises(expected), processes.main_holds(FolderLock(tmp_path / "out")):
            pytest.fail("it is another run's folder")
        expected = StorageError if processes.main else MainStopped
        with pytest.raises(expected), processes.main_first():
            assert processes.main
            raise StorageError("the disk is full")

    with locked:
        assert in_two(work) == [0, 0]


# Runs


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2, "batch_passes": "one_by_one"}], ids=str)
def test_two_processes_learn_what_one_learns_from_the_joint_batch(plan_of, in_two, tmp_path, settings):
    """Three pictures, two at a time: the second process has none in every other batch."""
    common = {"save_precision": "float", **settings}
    alone, two = tmp_path / "alone", tmp_path / "two"
    Run(plan_of(in_batches_of(2), output_dir=str(alone), **common)).train()

    plan = plan_of(in_batches_of(1), 2, output_dir=str(two), cache_dir=str(two / "cache"), **common)
    assert in_two(lambda processes: Run(plan, processes).train()) == [0, 0]
    rows, expected = (read_log(folder / "log.jsonl") for folder in (two, alone))
    assert len(rows) == 4
    for row, other in zip(rows, expected, strict=True):
        same = {"loss", "grad_norm", "pure", "lambda_star", "validation"} & other.keys()
        assert {name: row[name] for name in same} == pytest.approx({name: other[name] for name in same}, rel=1e-3)
        assert images_of(row) == images_of(other)
    assert difference(student_in(two), student_in(alone)) < 1e-3


def test_only_the_main_process_writes_and_makes_caches(plan_of, in_two):
    plan = plan_of(in_batches_of(1), 2, save_every_n_steps=1, sample_every_n_steps=1)

    def work(processes: Processes) -> None:
        if not processes.main:
            model = type(plan.parts.model)
            model.encode_text = model.encode_image = model.decode = lambda *_: pytest.fail("computed twice")
            sys.addaudithook(refuse_to_write)
        Run(plan, processes).train()

    assert in_two(work) == [0, 0]
    assert (plan.settings.output_dir / "tiny-step00000001.safetensors").is_file()


def refuse_to_write(event: str, arguments: tuple) -> None:
    assert event not in ("os.mkdir", "os.rename", "os.remove", "shutil.rmtree"), arguments
    if event == "open" and isinstance(arguments[0], str):
        assert not arguments[2] & WRITING, f"{arguments[0]} is written"


def test_two_processes_that_were_stopped_continue_to_the_same_result(plan_of, in_two, tmp_path, monkeypatch):
    """Only one of them hears Ctrl-C; both stop after the same step."""
    common = {"save_precision": "float", "max_train_steps": 3}

    def train(folder: str, **settings):
        dataset, common["output_dir"] = in_batches_of(1), str(tmp_path / folder)
        plan = plan_of(dataset, 2, **common, **settings)
        return in_two(lambda processes: Run(plan, processes).train())

    assert train("whole") == [0, 0]
    with monkeypatch.context() as patch:
        patch.setattr("library.training.run.StopRequest", StoppedInStage2)
        assert train("stopped") == [130, 130]
    log = tmp_path / "stopped" / "log.jsonl"
    assert [row["stage"] for row in read_log(log)] == ["extractor", "extractor", "student"]
    with pytest.raises(ConfigError, match="processes was 2"):
        Run(plan_of(in_batches_of(1), resume="auto", **common))
    assert train("stopped", resume="auto") == [0, 0]
    assert difference(student_in(tmp_path / "stopped"), student_in(tmp_path / "whole")) == 0


@pytest.mark.parametrize("stage", ["extractor", "student"])
def test_a_disk_that_is_full_when_something_is_saved_ends_both_with_a_sentence(plan_of, in_two, tmp_path, stage):
    """A real disk, on which only the main process writes; the other would wait for it forever."""
    with small_disk(tmp_path / "disk", 900) as disk:
        settings = {"output_dir": str(disk / "out"), "save_state_every_n_steps": 1, "sample_every_n_steps": None}
        plan = plan_of(in_batches_of(1), 2, **settings)

        def work(processes: Processes) -> None:
            signal.alarm(PATIENCE)
            run, made = Run(plan, processes), Stage.step

            def step(self):
                row = made(self)
                if self.name == stage and processes.main:
                    fill_up(disk)
                return row

            Stage.step = step
            expected = (StorageError, "can't be written: the disk is full")
            if not processes.main:
                expected = (MainStopped, "The main process has stopped")
            with pytest.raises(expected[0], match=expected[1]):
                run.train()
            processes.any(False)

        assert in_two(work) == [0, 0]
        assert read_status(disk / "out")["state"] in ("failed", "running"), "a full disk may hold no status either"


def test_a_process_that_is_gone_is_reported_by_the_other(plan_of, in_two):
    """As if the system had killed it: it reports nothing itself."""
    plan = plan_of(in_batches_of(1), 2)

    def work(processes: Processes) -> None:
        signal.alarm(PATIENCE)
        if not processes.main:
            Stage.step = lambda self: os._exit(9)
        with pytest.raises(ProcessLost, match="Another process of this run"):
            Run(plan, processes).train()
        os._exit(0)

    assert in_two(work) == [0, 9]


class StoppedInStage2(StopRequest):
    """As if only the second process had received Ctrl-C in the first step of stage 2."""

    stages = 0

    @contextmanager
    def at_end_of_step(self) -> Iterator[None]:
        self.stages += 1
        with super().at_end_of_step():
            self.made = self.stages == 2 and torch.distributed.get_rank() == 1
            yield


def test_a_step_that_one_process_has_no_memory_for_is_made_again_by_both(plan_of, in_two, tmp_path):
    plan = plan_of(in_batches_of(1), 2, auto_fit=True, vram_gb=4.0)

    def work(processes: Processes) -> None:
        run = Run(plan, processes)
        velocity = plan.parts.model.velocity

        def scarce(x_t, sigma, prompts, skipped=()):
            if torch.is_grad_enabled() and not processes.main and len(plan.parts.model.base.recomputed) < 3:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return velocity(x_t, sigma, prompts, skipped)

        plan.parts.model.velocity = scarce
        run.train()
        assert len(run.parts.model.base.recomputed) == 3

    assert in_two(work) == [0, 0]


def test_a_step_that_has_no_number_in_one_process_is_skipped_by_both(plan_of, in_two, tmp_path):
    plan = plan_of(in_batches_of(1), 2, output_dir=str(tmp_path / "two"))

    def work(processes: Processes) -> None:
        run = Run(plan, processes)
        draw, drawn = run.latents.draw, []

        def spoilt(draw_of, generator):
            drawn.append(draw_of)
            return draw(draw_of, generator) * (1e30 if len(drawn) <= 2 and not processes.main else 1.0)

        run.latents.draw = spoilt
        run.train()
        weights = torch.cat([weight.detach().flatten() for weight in run.parts.network.parameters("student")])
        assert weights.isfinite().all() and torch.equal(*processes.gathered([weights]))

    assert in_two(work) == [0, 0]
    first, *others = read_log(tmp_path / "two" / "log.jsonl")
    assert f"on {plan.order.batch(0)[1].picture.path} at sigma" in first["skipped"], "the second process's picture"
    assert str(plan.order.batch(0)[0].picture.path) not in first["skipped"]
    assert others and not any("skipped" in row for row in others)


# The launcher


@pytest.fixture
def fresh_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("ACCELERATE", "FSDP"))]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_what_accelerate_is_configured_for_and_is_not_used_is_reported_once_and_switched_off(
    plan_of, fresh_environment
):
    settings = plan_of().settings
    assert left_out(settings) == []
    fresh_environment.setenv("ACCELERATE_USE_FSDP", "true")
    fresh_environment.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    fresh_environment.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    fresh_environment.setenv("ACCELERATE_USE_CPU", "True")
    deepspeed, fsdp, one, precision = left_out(settings)
    assert "--cpu" in one and "--num_processes" in one and 'device = "auto"' in one
    assert "asks for DeepSpeed, which is not used" in deepspeed and "FSDP" in fsdp
    assert 'mixed_precision = "bf16"' in precision and 'mixed_precision = "no"' in precision
    assert "ACCELERATE_USE_FSDP" not in os.environ


def test_several_processes_do_not_share_one_card(plan_of, fresh_environment):
    fresh_environment.setenv("WORLD_SIZE", "2")
    settings = plan_of().settings
    settings = replace(settings, model=replace(settings.model, device="cuda:1"))
    with pytest.raises(ConfigError, match='device is "cuda:1", but there are 2 processes'), joined(settings, []):
        pass


def test_accelerate_launch_trains_and_control_c_saves_and_stops_all(tmp_path):
    """As started by a user, with FSDP in the configuration."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--num_processes", "2", *LAUNCH]
    words = ["purecc_train.py", *DEMO, *QUICK, *folders(tmp_path, "two"), "--extractor_train_steps", FOR_EVER]
    started = subprocess.Popen(
        [*launch, *words], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "two" / "log.jsonl"
    end = time.monotonic() + PATIENCE
    while not read_log(log):
        if started.poll() is not None or time.monotonic() > end:
            started.kill()
            pytest.fail(str(started.communicate()))
        time.sleep(0.2)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=PATIENCE)
    assert out.count("asks for FSDP, which is not used") == 1 and out.count("Processes: 2;") == 1
    assert err.count("Everything is saved") == 1 and "Traceback" not in err.partition("Everything is saved")[0]
    state = next((tmp_path / "two").glob("*-state/step-*"))
    assert int(state.name[5:]) == len(read_log(log))
