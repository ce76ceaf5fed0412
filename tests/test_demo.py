"""The demo of docs/tutorials/first-run.md: it learns what it is shown and nothing else."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from library.adapters.files import load_lora
from library.config.dataset_file import find_dataset_file, read_dataset_config
from library.config.files import TomlFile, read_settings
from library.dual_branch_scheduler import Branch
from library.models.interface import PromptBatch
from library.parts.parts import build_parts
from library.report.log import mean_of_end, read_log
from tests.helpers.commands import DEMO, run
from tests.helpers.places import ROOT
from tools.pocket.pen import SIDE

FEWER_SHEETS = ["--sample_every_n_steps", "1000", "--sample_seeds", "1"]
"""Nothing that the steps learn depends on these."""


def tutorial_commands() -> list[str]:
    """Every command of the tutorial that trains, draws or audits on the bundled model."""
    tutorial = (ROOT / "docs" / "tutorials" / "first-run.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", tutorial, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("python purecc_") and "demo" in line]


@pytest.fixture(scope="module")
def demo() -> Path:
    """Runs the tutorial's commands with fewer sheets; returns the demo's output folder."""
    commands = tutorial_commands()
    assert len(commands) >= 2
    for line in commands:
        words = shlex.split(line)[1:]
        extra = ["--overwrite", *FEWER_SHEETS] if words[0] == "purecc_train.py" else []
        done = run(*words, *extra)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    return ROOT / "output" / "demo"


def test_the_demo_learns(demo):
    learned = json.loads((demo / "demo_audit.json").read_text())["concepts"][0]["learned"]
    assert learned["better"] > 0.9, "the five pictures are predicted better, at nearly every noise level"
    assert learned["gain"] > 0.03 and learned["toward"] > 0.08


def test_with_l_purecc_the_student_follows_the_extractor(tmp_path):
    words = ["--eta", "0.5", "--extractor_train_steps", "75", *FEWER_SHEETS, "--sample_steps", "1"]
    done = run("purecc_train.py", *DEMO, *words, "--no_audit", "--output_dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = [row for row in read_log(tmp_path / "log.jsonl") if row["stage"] == "student"]
    first = rows[: len(rows) // 5]
    assert mean_of_end(rows, "lambda_star") > mean_of_end(first, "lambda_star", 1.0) + 0.15
    assert mean_of_end(rows, "cosine") > 0.6
    assert all(-0.5 < row["lambda_star"] < 2 for row in rows if "lambda_star" in row)


def drift(opened, lora: Path, texts: list[str]) -> float:
    """How far the LoRA moves the velocity for prompts without the concept, as a share of the velocity."""
    opened.texts.prepare(texts)
    parts = opened.attach()
    parts.network.load("lora", load_lora(lora, len(parts.model.blocks)), str(lora))
    prompts = PromptBatch.of([parts.texts[text] for text in texts], [None] * len(texts))
    x_t = torch.randn(len(texts), *parts.model.latent_shape(SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    sigma = torch.linspace(0.6, 0.95, len(texts))
    with torch.no_grad():
        before = parts.velocity(Branch({}, {}), x_t, sigma, [prompts])
        after = parts.velocity(Branch({}, {}, default="lora"), x_t, sigma, [prompts])
    return float((after - before).norm() / before.norm())


def test_the_demo_learns_nothing_else(demo, tmp_path):
    """Compared with a plain LoRA after the same number of steps on the same pictures."""
    plain = ["--anchor_weight", "0", "--replay_weight", "0", "--concept_embeddings", "none"]
    plain += ["--surroundings_weight", "0", "--context_vectors", "0"]
    plain += [*FEWER_SHEETS, "--sample_steps", "1"]
    done = run("purecc_train.py", *DEMO, *plain, "--output_dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    file = TomlFile(ROOT / "output" / "demo" / "config.toml")
    settings = read_settings(file)
    concepts = read_dataset_config(find_dataset_file(file, settings.data), settings.data).concepts
    texts = ["a blue house in the forest by day", "a red boat at left on the beach by day"]
    texts += ["a creature in the snow by day in clay", "a pink car in the city by day", ""]
    ours, lora = (
        drift(build_parts(settings, concepts), folder / "demo.safetensors", texts) for folder in (demo, tmp_path)
    )
    print(f"velocity drift without the concept: ours {ours:.3f}, plain LoRA {lora:.3f}")
    assert ours < 0.6 * lora, f"ours moved them by {ours:.3f}, the plain LoRA by {lora:.3f}"
