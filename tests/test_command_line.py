"""The commands as a user runs them: in a process of its own, stopped, resumed, and given mistakes."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from library.adapters.files import load_lora
from library.config.dataset_file import find_dataset_file, read_dataset_config
from library.config.files import TomlFile, read_settings
from library.dual_branch_scheduler import Branch
from library.files.cache import Cache
from library.models import PromptBatch
from library.parts.parts import build_parts
from library.report.log import mean_of_end, read_log
from tests.helpers.places import ROOT

DEMO = ["--config_file", "presets/demo.toml"]
QUICK = [
    *("--extractor_train_steps", "4", "--max_train_steps", "8", "--save_state_every_n_steps", "3"),
    *("--replay_images", "4", "--replay_sample_steps", "2", "--sample_steps", "2", "--sample_seeds", "1"),
    *("--context_train_steps", "4", "--word_train_steps", "2", "--no_audit"),
]


def command(script: str, *words: str) -> list[str]:
    return [sys.executable, script, *words]


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1"}


def run(script: str, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(script, *words), cwd=ROOT, env=environment(), capture_output=True, text=True)


@pytest.fixture
def run_here(monkeypatch, capsys):
    """`run` without a process of its own, which takes seconds to start."""
    import purecc_train
    from library.errors import exit_code_of

    def call(*words: str) -> subprocess.CompletedProcess:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["purecc_train.py", *words])
        code = exit_code_of(lambda: purecc_train.main([]), lambda: None)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, said.out, said.err)

    return call


def folders(tmp_path: Path, name: str) -> list[str]:
    return ["--output_dir", str(tmp_path / name), "--cache_dir", str(tmp_path / "cache")]


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    """A quick run of the demo that is never stopped; its output lies in `whole`."""
    folder = tmp_path_factory.mktemp("quick")
    done = run("purecc_train.py", *DEMO, *QUICK, *folders(folder, "whole"))
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_results(one: Path, two: Path) -> None:
    for name in (
        "demo.safetensors",
        "demo_diffusers.safetensors",
        "demo_concept.safetensors",
        "demo_embedding.safetensors",
    ):
        first, second = load_file(one / name), load_file(two / name)
        assert set(first) == set(second)
        assert all(torch.equal(first[key], second[key]) for key in first), name


PRESSED_IN_STEP_6 = """
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
"""purecc_train.py, where the user presses Ctrl-C in the second step of stage 2, which has four steps before it."""


def test_ctrl_c_saves_says_how_to_go_on_and_resumes(quick):
    words = [*DEMO, *QUICK, *folders(quick, "stopped")]
    pressed = [sys.executable, "-c", PRESSED_IN_STEP_6, *words]
    stopped = subprocess.run(pressed, cwd=ROOT, env=environment(), capture_output=True, text=True)
    said = stopped.stderr
    assert stopped.returncode == 130 and len(read_log(quick / "stopped" / "log.jsonl")) == 6
    assert "all is saved. The same command with --resume auto goes on." in said and "Traceback" not in said
    again = run("purecc_train.py", *words, "--resume", "auto")
    assert again.returncode == 0, again.stderr
    assert_same_results(quick / "whole", quick / "stopped")


def test_a_finished_run_with_resume_auto_ends_well_and_says_how_to_train_longer(quick):
    os.utime(quick / "whole" / "demo.safetensors", (1, 1))
    done = run("purecc_train.py", *DEMO, *QUICK, *folders(quick, "whole"), "--resume", "auto")
    assert done.returncode == 0 and "Saved:" not in done.stdout
    assert "it is finished: demo, 8 steps of the student. Nothing is left to do.\n  To train longer: " in done.stderr
    assert (quick / "whole" / "demo.safetensors").stat().st_mtime == 1


def test_the_written_config_runs_as_it_is(quick):
    done = run(
        "purecc_train.py", "--config_file", str(quick / "whole" / "config.toml"), "--output_dir", str(quick / "again")
    )
    assert done.returncode == 0, done.stderr
    assert_same_results(quick / "whole", quick / "again")


@pytest.mark.parametrize("layout", ["demo.safetensors", "demo_diffusers.safetensors"])
def test_generate_draws_with_and_without(quick, tmp_path, layout):
    sheet = tmp_path / "sheet.png"
    config = str(quick / "whole" / "config.toml")
    words = ["--config_file", config, "--lora", str(quick / "whole" / layout), "--output", str(sheet)]
    done = run("purecc_generate.py", *words, "--prompt", "a [V] creature on the beach", "a blue house --s 3 --d 5")
    assert done.returncode == 0, done.stderr
    with Image.open(sheet) as image:
        assert image.size == (190 + 2 * 134 + 6, 58 + 2 * 134 + 6)


def test_a_dry_run_shows_what_each_text_became_and_what_is_cut_off(run_here, tmp_path):
    (tmp_path / "long.txt").write_text("a big red car at left on the beach by day in ink and a boat\n")
    words = ["--sample_prompts", str(tmp_path / "long.txt"), *folders(tmp_path, "out")]
    done = run_here(*DEMO, "--dry_run", *words)
    assert done.returncode == 0, done.stderr
    table = (
        r"00\.png, 64 x 64, shown at 64 x 64\n"
        r"\s+complete 'a sks creature in the city'\n\s+base\s+'a creature in the city'\n\s+target\s+'a sks creature'"
    )
    assert re.search(table, done.stdout)
    assert (
        "CLIP-L reads 16 of the 18 tokens of 'a big red car at left on the beach by day in ink and a boat'"
        in done.stdout
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("preset", sorted(path.name for path in (ROOT / "presets").glob("*.toml")))
def test_every_preset_dry_runs_on_the_small_model(preset, run_here, tmp_path):
    """On the bundled model and pictures, which every preset can be pointed at."""
    words = ["--pretrained_model_name_or_path", "pocket/model", "--dataset_config", "dataset_configs/creature.toml"]
    words += ["--t5xxl_max_token_length", "16", "--blocks_to_swap", "0", *folders(tmp_path, "out")]
    done = run_here("--config_file", f"presets/{preset}", "--dry_run", *words)
    assert done.returncode == 0, done.stderr


MISTAKES = {
    "unknown setting": (["--etta", "1"], 'Did you mean "eta"?'),
    "wrong type": (["--network_dim", "four"], "network_dim is 'four'; it must be a whole number"),
    "no config": (["--config_file", "presets/demmo.toml"], 'Did you mean "presets/demo.toml"?'),
    "no model": (["--pretrained_model_name_or_path", "nowhere"], "there is no folder or file"),
    "not a model": (["--pretrained_model_name_or_path", "pocket/subject-creature"], "has no model_index.json"),
    "a file as model": (["--pretrained_model_name_or_path", "README.md"], "is no safetensors file"),
    "unknown optimizer": (["--optimizer_type", "AdamV"], 'Did you mean "AdamW"?'),
    "no dataset": (["--dataset_config", "nowhere.toml"], "There is no file nowhere.toml"),
    "no prompts": (["--sample_prompts", "nowhere.txt"], "sample_prompts: there is no file"),
    "no device": (["--device", "cuda:77"], 'device: PyTorch can\'t use "cuda:77"'),
    "clearing without a run": (["--clear_cache", "--dry_run"], "--clear_cache has nothing to do here"),
    "no T5 tokens": (["--t5xxl_max_token_length", "1"], "is cut off in the target"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_sentence_and_exit_code_2(name, run_here, tmp_path):
    words, said = MISTAKES[name]
    done = run_here(*DEMO, *folders(tmp_path, "out"), *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")


def test_a_mistake_ends_the_process_with_code_2_and_no_traceback():
    done = run("purecc_train.py", *DEMO, "--etta", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'error: Command line: unrecognized arguments: --etta 1.\n  Did you mean "eta"?\n'


def test_another_models_folder_is_said(run_here, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    done = run_here(*DEMO, "--pretrained_model_name_or_path", str(tmp_path))
    assert done.returncode == 2 and "is a FluxPipeline, which this trainer can't train" in done.stderr


def test_the_cache_is_cleared_before_a_run_and_shrinks_to_its_limit_after_it(run_here, tmp_path, monkeypatch):
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


def test_xformers_where_it_cannot_work_is_said_once_and_replaced(run_here, tmp_path):
    done = run_here(*DEMO, *QUICK, "--xformers", *folders(tmp_path, "out"), "--max_train_steps", "1")
    assert done.returncode == 0, done.stderr
    if not torch.cuda.is_available():
        assert done.stderr.count("xformers can't be used") == 1 and "PyTorch's own attention is used" in done.stderr


def test_the_benchmark_runs_and_a_plain_step_is_the_measure(tmp_path):
    words = ["-m", "benchmarks.step", *DEMO, *QUICK[4:], "--rounds", "2", *folders(tmp_path, "out")]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    rows = {row["variant"]: row for row in json.loads((tmp_path / "out" / "step.json").read_text())["rows"]}
    assert rows["plain LoRA"]["ratio"] == 1.0
    passes = {name: row["passes"] for name, row in rows.items()}
    assert passes["plain LoRA"] == "1 + 0" and passes["pure: all of it"] == "4 + 4"
    assert passes["paper: live base"] == passes["the authors' release"] == "2 + 2"
    assert passes["PureCC, base frozen"] == "1 + 3"


def readme_commands() -> list[str]:
    """Every command of the README that trains or draws on the bundled model."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("python purecc_") and "demo" in line]


@pytest.fixture(scope="module")
def demo() -> Path:
    """The README's commands, run as they stand there; gives the demo's output folder."""
    commands = readme_commands()
    assert len(commands) >= 2
    for line in commands:
        words = shlex.split(line)[1:]
        extra = ["--overwrite"] if words[0] == "purecc_train.py" else []
        done = run(*words, *extra)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    return ROOT / "output" / "demo"


def test_the_demo_learns(demo):
    rows = [row for row in read_log(demo / "log.jsonl") if row["stage"] == "student"]
    first = rows[: len(rows) // 5]
    assert mean_of_end(rows, "lambda_star") > mean_of_end(first, "lambda_star", 1.0) + 0.3
    assert mean_of_end(rows, "cosine") > 0.6
    assert mean_of_end(rows, "concept") < 0.8 * mean_of_end(first, "concept", 1.0)
    assert all(-0.5 < row["lambda_star"] < 2 for row in rows)


def drift(opened, lora: Path, texts: list[str]) -> float:
    """How far the LoRA moves the velocity for prompts without the concept, as a share of the velocity."""
    opened.texts.prepare(texts)
    parts = opened.attach()
    parts.network.load("lora", load_lora(lora, len(parts.model.blocks)), str(lora))
    prompts = PromptBatch.of([parts.texts[text] for text in texts], [None] * len(texts))
    x_t = torch.randn(len(texts), *parts.model.latent_shape(64, 64), generator=torch.Generator().manual_seed(0))
    sigma = torch.linspace(0.6, 0.95, len(texts))
    with torch.no_grad():
        before = parts.velocity(Branch({}, {}), x_t, sigma, [prompts])
        after = parts.velocity(Branch({}, {}, default="lora"), x_t, sigma, [prompts])
    return float((after - before).norm() / before.norm())


def test_the_demo_learns_nothing_else(demo, tmp_path):
    """Against a plain LoRA of as many steps on the same pictures."""
    plain = ["--eta", "0", "--anchor_weight", "0", "--replay_weight", "0", "--concept_embeddings", "none"]
    plain += ["--surroundings_weight", "0", "--context_vectors", "0"]
    done = run(
        "purecc_train.py", *DEMO, *plain, "--output_dir", str(tmp_path), "--sample_seeds", "1", "--sample_steps", "1"
    )
    assert done.returncode == 0, done.stderr
    file = TomlFile(ROOT / "output" / "demo" / "config.toml")
    settings = read_settings(file)
    concepts = read_dataset_config(find_dataset_file(file, settings.data), settings.data).concepts
    texts = ["a blue house in the forest by day", "a red boat at left on the beach by day"]
    texts += ["a creature in the snow by day in clay", "a pink car in the city by day", ""]
    pure, lora = (
        drift(build_parts(settings, concepts), folder / "demo.safetensors", texts) for folder in (demo, tmp_path)
    )
    print(f"velocity drift without the concept: PureCC {pure:.3f}, plain LoRA {lora:.3f}")
    assert pure < 0.6 * lora, f"PureCC moved them by {pure:.3f}, the plain LoRA by {lora:.3f}"
