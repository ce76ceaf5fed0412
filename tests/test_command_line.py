"""The commands as a user runs them, stopped, resumed and with mistakes; some in separate processes, most in this."""

import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import benchmarks.step
import purecc_generate
import purecc_train
from library.errors import exit_code_of
from library.files.cache import Cache
from library.report.log import read_log
from library.report.sheet import LEAST_SIDE
from tests.helpers.commands import DEMO, QUICK, environment, folders, run
from tests.helpers.datasets import DATASET
from tests.helpers.places import ROOT
from tools.pocket.pen import SIDE


def run_here(*words: str, main: Callable[[], None] = lambda: purecc_train.main([])) -> subprocess.CompletedProcess:
    """`run` without a separate process, which takes seconds to start."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["a command", *words])
        code = exit_code_of(main, lambda: None)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    """A quick run of the demo that is never stopped; its output is in `whole`."""
    folder = tmp_path_factory.mktemp("quick")
    done = run_here(*DEMO, *QUICK, *folders(folder, "whole"))
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_results(one: Path, two: Path) -> None:
    for name in ("demo.safetensors", "demo_diffusers.safetensors", "demo_concept.safetensors"):
        first, second = load_file(one / name), load_file(two / name)
        assert set(first) == set(second)
        assert all(torch.equal(first[key], second[key]) for key in first), name


def test_the_first_line_says_what_is_read_before_anything_slow_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "library.training.processes", None)
    done = run_here(*DEMO, "--output_dir", "somewhere", "--no_audit")
    assert done.returncode == 70 and "library.training.processes" in done.stderr
    assert all(one in done.stdout for one in ("presets/demo.toml", "pocket/model", "somewhere"))
    assert run_here(*DEMO, "--dry_run", "--json").stdout == ""
    monkeypatch.setenv("RANK", "1")
    assert run_here(*DEMO).stdout == "", "one process speaks for all"


def test_a_run_says_when_it_will_end_and_keeps_it_in_its_status(tmp_path, monkeypatch):
    monkeypatch.setattr("library.training.pace.WORTH_COUNTING", 0.0)
    done = run_here(*DEMO, *QUICK, *folders(tmp_path, "told"), "--max_train_steps", "8")
    assert done.returncode == 0 and done.stderr.count("The run ends at about") == 1, done.stderr
    assert json.loads((tmp_path / "told" / "status.json").read_text())["ends_at"]


PRESSED_IN_STEP_4 = """
import os, runpy, signal
from library.environment import prepare_process

prepare_process()
from library.training.stage import Stage

step = Stage.step

def pressed(self):
    row = step(self)
    if (self.name, self.done) == ("student", 2):
        os.kill(os.getpid(), signal.SIGINT)
    return row

Stage.step = pressed
runpy.run_path("purecc_train.py", run_name="__main__")
"""
"""purecc_train.py, where the user presses Ctrl-C in the second step of stage 2, which has two steps before it."""


def test_ctrl_c_saves_says_how_to_continue_and_resumes(quick):
    words = [*DEMO, *QUICK, *folders(quick, "stopped")]
    pressed = [sys.executable, "-c", PRESSED_IN_STEP_4, *words]
    stopped = subprocess.run(pressed, cwd=ROOT, env=environment(), capture_output=True, text=True)
    said = stopped.stderr
    assert stopped.returncode == 130 and len(read_log(quick / "stopped" / "log.jsonl")) == 4
    assert "Everything is saved" in said and "--resume auto" in said and "Traceback" not in said
    again = run("purecc_train.py", *words, "--resume", "auto")
    assert again.returncode == 0, again.stderr
    assert_same_results(quick / "whole", quick / "stopped")


def test_a_finished_run_with_resume_auto_ends_well_and_says_how_to_train_longer(quick):
    os.utime(quick / "whole" / "demo.safetensors", (1, 1))
    done = run_here(*DEMO, *QUICK, *folders(quick, "whole"), "--resume", "auto")
    assert done.returncode == 0 and "Saved:" not in done.stdout
    assert "it is finished: demo, 4 steps of the student" in done.stderr
    assert (quick / "whole" / "demo.safetensors").stat().st_mtime == 1


def test_the_written_config_runs_as_it_is(quick):
    done = run_here("--config_file", str(quick / "whole" / "config.toml"), "--output_dir", str(quick / "again"))
    assert done.returncode == 0, done.stderr
    assert_same_results(quick / "whole", quick / "again")


@pytest.mark.parametrize("layout", ["demo.safetensors", "demo_diffusers.safetensors"])
def test_generate_draws_with_and_without(quick, tmp_path, layout):
    sheet = tmp_path / "sheet.png"
    config = str(quick / "whole" / "config.toml")
    words = ["--config_file", config, "--lora", str(quick / "whole" / layout), "--output", str(sheet)]
    words += ["--prompt", "a [V] creature on the beach", "a blue house --s 3 --d 5"]
    done = run_here(*words, main=purecc_generate.main)
    assert done.returncode == 0, done.stderr
    shown = SIDE * math.ceil(LEAST_SIDE / SIDE)
    with Image.open(sheet) as image:
        assert image.size == (190 + 2 * (shown + 6) + 6, 58 + 2 * (shown + 6) + 6)


def test_a_dry_run_shows_what_each_text_became_and_what_is_cut_off(tmp_path):
    (tmp_path / "long.txt").write_text("a big red car at left on the beach by day in ink and a boat\n")
    words = ["--sample_prompts", str(tmp_path / "long.txt"), *folders(tmp_path, "out")]
    done = run_here(*DEMO, "--dry_run", *words)
    assert done.returncode == 0, done.stderr
    table = (
        rf"00\.png, {SIDE} x {SIDE}, shown at {SIDE} x {SIDE}\n"
        r"\s+complete 'a sks creature in the city'\n\s+base\s+'a creature in the city'\n\s+target\s+'a sks creature'"
    )
    assert re.search(table, done.stdout)
    assert (
        "CLIP-L reads 16 of the 18 tokens of 'a big red car at left on the beach by day in ink and a boat'"
        in done.stdout
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("preset", sorted(path.name for path in (ROOT / "presets").glob("*.toml")))
def test_every_preset_dry_runs_on_the_small_model(preset, tmp_path):
    """On the bundled model and pictures, which work with every preset."""
    words = ["--pretrained_model_name_or_path", "pocket/model", "--dataset_config", "dataset_configs/creature.toml"]
    words += ["--t5xxl_max_token_length", "16", "--blocks_to_swap", "0", *folders(tmp_path, "out")]
    done = run_here("--config_file", f"presets/{preset}", "--dry_run", *words)
    assert done.returncode == 0, done.stderr


MISTAKES = {
    "unknown setting": (["--etta", "1"], 'Did you mean "eta"?'),
    "wrong type": (["--network_dim", "four"], "network_dim is 'four'; it must be a whole number"),
    "no config": (["--config_file", "presets/demmo.toml"], 'Did you mean "presets/demo.toml"?'),
    "no model": (["--pretrained_model_name_or_path", "nowhere"], "pretrained_model_name_or_path: the file or folder"),
    "not a model": (["--pretrained_model_name_or_path", "pocket/subject-creature"], "has no model_index.json"),
    "a file as model": (["--pretrained_model_name_or_path", "README.md"], "is not a safetensors file"),
    "unknown optimizer": (["--optimizer_type", "AdamV"], 'Did you mean "AdamW"?'),
    "no dataset": (["--dataset_config", "nowhere.toml"], "There is no file nowhere.toml"),
    "no prompts": (["--sample_prompts", "nowhere.txt"], "sample_prompts: the file"),
    "no device": (["--device", "cuda:77"], 'device: PyTorch can\'t use "cuda:77"'),
    "clearing without a run": (["--clear_cache", "--dry_run"], "--clear_cache has no effect"),
    "no T5 tokens": (["--t5xxl_max_token_length", "1"], "is cut off in the target"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_sentence_and_exit_code_2(name, tmp_path):
    words, said = MISTAKES[name]
    done = run_here(*DEMO, *folders(tmp_path, "out"), *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")


def test_a_mistake_ends_the_process_with_code_2_and_no_traceback():
    done = run("purecc_train.py", *DEMO, "--etta", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'error: Command line: unrecognized arguments: --etta 1.\n  Did you mean "eta"?\n'


def test_another_models_folder_is_reported(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    done = run_here(*DEMO, "--pretrained_model_name_or_path", str(tmp_path))
    assert done.returncode == 2 and "is a FluxPipeline, which this trainer can't train" in done.stderr


def test_the_cache_is_cleared_before_a_run_and_shrinks_to_its_limit_after_it(tmp_path, monkeypatch):
    cache = Cache(tmp_path / "cache")

    def train(run) -> list[Path]:
        assert cache.find("kind", {"a": 1}) is None, "it was cleared"
        cache.put("kind", {"a": 2}, {"x": torch.zeros(3)})
        assert cache.find("kind", {"a": 2})
        return []

    monkeypatch.setattr("library.training.run.Run.train", train)
    cache.put("kind", {"a": 1}, {"x": torch.zeros(1_000_000)})
    done = run_here(*DEMO, "--clear_cache", "--max_cache_gb", "1e-9", *folders(tmp_path, "out"))
    assert done.returncode == 0, done.stderr
    assert "Cleared 4 MB of" in done.stdout and cache.find("kind", {"a": 2}) is None


def test_xformers_where_it_cannot_work_is_reported_once_and_replaced(tmp_path):
    words = ["--method", "lora", "--max_train_steps", "1"]
    done = run_here(*DEMO, *QUICK, "--xformers", *folders(tmp_path, "out"), *words)
    assert done.returncode == 0, done.stderr
    if not torch.cuda.is_available():
        assert done.stderr.count("xformers can't be used") == 1 and "PyTorch's own attention is used" in done.stderr


def test_the_benchmark_runs_and_a_plain_step_is_the_measure(tiny_model, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks.step, "WARM_UP", 0)
    dataset, replayed = tmp_path / "dataset.toml", tmp_path / "replay.txt"
    dataset.write_text(DATASET.format(pictures=pictures))
    replayed.write_text("a red {class}\na blue house\n")
    words = [*DEMO, *QUICK[4:], "--rounds", "2", *folders(tmp_path, "out"), "--replay_prompts", str(replayed)]
    words += ["--pretrained_model_name_or_path", str(tiny_model), "--dataset_config", str(dataset)]
    done = run_here(*words, main=benchmarks.step.main)
    assert done.returncode == 0, done.stderr
    rows = {row["variant"]: row for row in json.loads((tmp_path / "out" / "step.json").read_text())["rows"]}
    assert rows["plain LoRA"]["ratio"] == 1.0
    passes = {name: row["passes"] for name, row in rows.items()}
    assert passes["plain LoRA"] == passes["diffusers + PEFT, plain LoRA"] == "1 + 0"
    assert passes["pure: all of it"] == "4 + 4" and passes["lean, with the word, in turns"] == "2 + 0.8"
    assert passes["paper: live base"] == passes["the authors' release"] == "2 + 2"
    assert passes["PureCC, base frozen"] == "1 + 3"
