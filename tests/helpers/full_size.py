"""Stable Diffusion 3.5 Medium as configurations alone: a folder that can be counted, though it holds no weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from library.models.sd3.bundled_tokenizers import bundled_tokenizers
from tests.helpers.places import ROOT

BUNDLED = ROOT / "library" / "models" / "sd3" / "sd35_medium"


def write_full_size(folder: Path) -> Path:
    """Writes the folder from the configurations and tokenizers that come with the project; returns it."""
    shutil.copytree(BUNDLED, folder, ignore=shutil.ignore_patterns("tokenizers", "*.md"))
    names = ("tokenizer", "tokenizer_2", "tokenizer_3")
    for name, tokenizer in zip(names, bundled_tokenizers(BUNDLED / "tokenizers"), strict=True):
        tokenizer.save_pretrained(folder / name)
    return folder
