"""A concept's file, checked against the model that will draw it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from library.adapters.files import SavedConcept
from library.drawing.generation import as_concept, check_layout
from library.errors import ModelError
from library.models.interface import TextStream
from tests.helpers.datasets import DOG

SAVED = SavedConcept(
    name="dog",
    trigger="sks",
    class_word="dog",
    kind="subject",
    target=DOG.target,
    tokens={"clip": 1, "t5": 2},
    every_block=True,
    lengths={"t5": 77},
)


def test_a_saved_concept_is_the_one_that_was_trained():
    assert as_concept(SAVED) == DOG


@pytest.mark.parametrize(
    ("saved", "fits"),
    [
        (SAVED, True),
        (replace(SAVED, tokens={"clip": 1, "t5": 0}), True),
        (replace(SAVED, tokens={"clip": 1, "t5": 3}), False),
        (replace(SAVED, tokens={"clip": 2, "t5": 2}), False),
    ],
    ids=["the same", "of CLIP alone", "other pieces of T5", "other tokens of CLIP"],
)
def test_vectors_are_refused_where_the_tokenizers_split_the_trigger_otherwise(saved, fits):
    streams = (TextStream("CLIP", "clip", 0, 77), TextStream("T5", "t5", 77, 77))
    model = SimpleNamespace(streams=streams)
    opened = SimpleNamespace(model=model, layouts={"dog": SimpleNamespace(counts=(1, 2))})
    if fits:
        check_layout(opened, "dog", saved, Path("dog_concept.safetensors"))
        return
    with pytest.raises(ModelError, match=r"dog_concept\.safetensors: .*sks"):
        check_layout(opened, "dog", saved, Path("dog_concept.safetensors"))
