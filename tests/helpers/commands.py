"""The commands as a user runs them, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.helpers.places import ROOT

DEMO = ["--config_file", "presets/demo.toml"]
QUICK = [
    *("--extractor_train_steps", "2", "--max_train_steps", "4", "--save_state_every_n_steps", "3"),
    *("--replay_images", "4", "--replay_sample_steps", "2", "--sample_steps", "1", "--sample_seeds", "1"),
    *("--context_train_steps", "2", "--no_audit", "--eta", "0.5"),
]


def command(script: str, *words: str) -> list[str]:
    return [sys.executable, script, *words]


def environment() -> dict[str, str]:
    """The environment of a command, with as many threads as this process, so that numbers are the same to the bit."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}


def run(script: str, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(script, *words), cwd=ROOT, env=environment(), capture_output=True, text=True)


def folders(tmp_path: Path, name: str) -> list[str]:
    return ["--output_dir", str(tmp_path / name), "--cache_dir", str(tmp_path / "cache")]
