"""Programs that are given LoRA files."""

from __future__ import annotations

from pathlib import Path

import pytest

import purecc_generate
from tests.helpers.tiny import LENGTH


@pytest.fixture
def generate(call, tmp_path, tiny_model):
    """purecc_generate.py with this LoRA; its cache lies in `cache`, its sheet would in `out`."""

    def run(path: Path, *more: str):
        model = ["--pretrained_model_name_or_path", tiny_model, "--t5xxl_max_token_length", LENGTH]
        folders = ["--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "out"]
        small = ["--mixed_precision", "no", "--resolution", "32", "--sample_steps", "1", "--sample_seeds", "1"]
        return call(purecc_generate, *model, *folders, *small, "--lora", path, "--prompt", "a red dog", *more)

    return run
