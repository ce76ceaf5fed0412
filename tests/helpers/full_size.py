"""Stability's models as configurations alone: folders whose memory can be counted, although they hold no weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from library.models.sd3.bundled_tokenizers import bundled_tokenizers
from library.models.sd3.single_file import SD35_MEDIUM


def write_full_size(folder: Path, model: Path = SD35_MEDIUM) -> Path:
    """Writes the folder from the configurations and tokenizers that come with the project; returns it.

    Args:
        model: one of Stability's in `CONFIGURATIONS`.
    """
    for one in (SD35_MEDIUM, model):
        shutil.copytree(one, folder, ignore=shutil.ignore_patterns("tokenizers", "*.md"), dirs_exist_ok=True)
    names = ("tokenizer", "tokenizer_2", "tokenizer_3")
    for name, tokenizer in zip(names, bundled_tokenizers(SD35_MEDIUM / "tokenizers"), strict=True):
        tokenizer.save_pretrained(folder / name)
    return folder
