"""How many tokens of a text each encoder reads, counted as the trainer counts them."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

from gui.places import POCKET_MODEL
from gui.projects import Project
from library.models.loading.model_files import FolderFiles
from library.models.sd3.bundled_tokenizers import CLIP_LENGTH, bundled_tokenizers
from library.models.sd3.single_file import CONFIGURATIONS

LIMITS = {"sd35": (CLIP_LENGTH, 77), "pocket": (16, 16)}
"""How many tokens of a text CLIP and T5 read, by model; T5's is the recipe's `t5xxl_max_token_length`."""
one_at_a_time = threading.Lock()
"""Held while counting: importing transformers in two threads fails, and tokenizers are for one thread."""


@cache
def _tokenizers(model: str) -> list[Any]:
    if model == "pocket":
        return FolderFiles(POCKET_MODEL).tokenizers()
    return bundled_tokenizers(CONFIGURATIONS[0] / "tokenizers")


def counts(project: Project, texts: list[str]) -> list[tuple[int, int]]:
    """The number of CLIP and T5 tokens of each text, including those of start and end."""
    if not texts:
        return []
    with one_at_a_time:
        clip, _, t5 = _tokenizers(project.model)
        ids = [tokenizer(texts, truncation=False, verbose=False)["input_ids"] for tokenizer in (clip, t5)]
    return [(len(one), len(two)) for one, two in zip(*ids, strict=True)]


def limits(project: Project) -> tuple[int, int]:
    """How many tokens CLIP and T5 read."""
    clip, t5 = LIMITS[project.model]
    given = project.changed.get("t5xxl_max_token_length", t5)
    return clip, given if isinstance(given, int) else t5


def is_a_real_word(project: Project) -> bool:
    """Whether CLIP reads the trigger as one token, so it may already mean something."""
    trigger = project.trigger
    return trigger.isalpha() and len(trigger) >= 4 and counts(project, [trigger])[0][0] == 3
