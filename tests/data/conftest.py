"""Texts of pictures."""

from __future__ import annotations

import dataclasses

import pytest

from library.config.dataset import Concept, Subset
from library.config.settings import DataSettings
from library.data.captions import prompts_of
from tests.helpers.datasets import DOG


@pytest.fixture
def prompts(tmp_path):
    """The three texts of a picture with this caption file, under these settings of its subset."""

    def make(caption: str, concept: Concept = DOG, seed: int = 0, count: int = 8, is_reg: bool = False, **settings):
        (tmp_path / "1.txt").write_text(caption)
        values = {field.name: getattr(DataSettings(), field.name, None) for field in dataclasses.fields(Subset)}
        own = {"num_repeats": 1, "image_dir": "", "concept": concept.name, "diff_output_preservation": False}
        subset = Subset(**{**values, **own, "is_reg": is_reg, **settings})
        return prompts_of(tmp_path / "1.png", subset, concept, seed, count)

    return make
