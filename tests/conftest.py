"""Fixtures: a tiny model, a folder of pictures, and runs on them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # commands that tests start share the cores with the other workers
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from PIL import Image

import purecc_convert
from library.config.dataset_file import read_dataset_config
from library.config.files import TomlFile, read_settings
from library.errors import exit_code_of
from library.preflight.plan import Plan, make_plan
from tests.helpers.tiny import LENGTH, save_tiny_model

torch.set_num_threads(1)  # tiny models gain nothing from more, and lose much where cores are shared


def pytest_addoption(parser) -> None:
    parser.addoption("--kills", type=int, default=20, help="How often tests/training/test_killed.py kills a run.")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder of the tiny model."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder of four pictures with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(4):
        pixels = torch.randint(0, 255, (32, 32, 3), generator=torch.Generator().manual_seed(index)).byte()
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(["a [V] dog city", "a [V] dog beach", "a dog", "a red [V] dog"][index])
    return folder


@pytest.fixture(autouse=True)
def no_plots(request, monkeypatch):
    """Leaves out `training.png`, the slowest part of a tiny run, but for tests that are marked `plots`."""
    if "plots" not in request.keywords:
        monkeypatch.setattr("library.training.report_page.plot_log", lambda rows, path: None)


DATASET = """
[[concepts]]
name = "dog"
trigger = "sks"
class_word = "dog"

[[datasets]]
resolution = 32
batch_size = 2
  [[datasets.subsets]]
  image_dir = "{pictures}"
"""


def tiny_settings(model: Path, folder: Path) -> dict[str, Any]:
    """Settings of a small and quick run of the tiny model, all of whose files lie in a folder."""
    return {
        "pretrained_model_name_or_path": str(model),
        "t5xxl_max_token_length": LENGTH,
        "mixed_precision": "no",
        "gradient_checkpointing": False,
        "output_dir": str(folder / "output"),
        "cache_dir": str(folder / "cache"),
        "output_name": "tiny",
        "log_with": "none",
        "extractor_train_steps": 2,
        "max_train_steps": 2,
        "learning_rate": 1e-2,
        "replay_images": 4,
        "context_train_steps": 2,
        "replay_sample_steps": 2,
        "sample_steps": 2,
        "sample_seeds": 1,
        "sample_strengths": [],
        "replay_prompts": str(folder / "replay.txt"),
        "sample_prompts": str(folder / "samples.txt"),
    }


@pytest.fixture
def plan_of(tiny_model, pictures, tmp_path):
    """Makes plans on the tiny model: `plan_of(eta=0.0, ...)`; anything not named is small and quick."""
    file = tmp_path / "dataset.toml"
    file.write_text(DATASET.format(pictures=pictures))

    def make(dataset: str | None = None, processes: int = 1, **settings) -> Plan:
        (tmp_path / "replay.txt").write_text('a red {class}\n""\na blue house\n')
        (tmp_path / "samples.txt").write_text("a [V] dog\na blue house\n")
        if dataset is not None:
            file.write_text(dataset.format(pictures=pictures))
        read = read_settings(None, {**tiny_settings(tiny_model, tmp_path), **settings})
        return make_plan(read, read_dataset_config(TomlFile(file), read.data), processes)

    return make


@pytest.fixture
def convert(monkeypatch, capsys):
    """purecc_convert.py in this process: exit code, what it printed, what it complained."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["purecc_convert.py", *map(str, words)])
        code = exit_code_of(purecc_convert.main, lambda: None)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
