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
"""Tokens that CLIP and T5 read of a text, by the project's model; T5's is `t5xxl_max_token_length` of the recipe."""
one_at_a_time = threading.Lock()
"""Held while counting: two threads that import transformers at once fail, and tokenizers are for one thread."""


@cache
def _tokenizers(model: str) -> list[Any]:
    if model == "pocket":
        return FolderFiles(POCKET_MODEL).tokenizers()
    return bundled_tokenizers(CONFIGURATIONS[0] / "tokenizers")


def counts(project: Project, texts: list[str]) -> list[tuple[int, int]]:
    """Tokens of CLIP and of T5 that each text has, marks of begin and end included."""
    if not texts:
        return []
    with one_at_a_time:
        clip, _, t5 = _tokenizers(project.model)
        ids = [tokenizer(texts, truncation=False, verbose=False)["input_ids"] for tokenizer in (clip, t5)]
    return [(len(one), len(two)) for one, two in zip(*ids, strict=True)]


def limits(project: Project) -> tuple[int, int]:
    """How many of CLIP's and of T5's are read."""
    clip, t5 = LIMITS[project.model]
    given = project.changed.get("t5xxl_max_token_length", t5)
    return clip, given if isinstance(given, int) else t5


def is_a_real_word(project: Project) -> bool:
    """Whether CLIP reads the trigger as one token, so that it may bring a meaning of its own."""
    trigger = project.trigger
    return trigger.isalpha() and len(trigger) >= 4 and counts(project, [trigger])[0][0] == 3
