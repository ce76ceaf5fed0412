"""Strangers' concept files: the trainer and the node refuse damaged ones in one sentence."""

import importlib.util
import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from library.adapters.files import load_concepts
from library.errors import ModelError
from tests.helpers.places import ROOT

FILE = ROOT / "comfyui_purecc" / "concept_file.py"
SPEC = importlib.util.spec_from_file_location("concept_file_alone", FILE)
concept_file = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(concept_file)  # on its own: the package around it needs ComfyUI
load_in_comfyui = concept_file.read_concepts

ENTRY = {
    "name": "dog",
    "trigger": "sks",
    "class_word": "dog",
    "kind": "subject",
    "target": "[V] dog",
    "clip_tokens": 1,
    "t5_tokens": 2,
    "every_block": True,
    "t5_length": 77,
}


def written(path, vectors=None, concepts=None):
    vectors = torch.ones(3, 3, 8) if vectors is None else vectors
    text = json.dumps([ENTRY]) if concepts is None else concepts
    save_file({"lora_concept.dog": vectors}, path, {"purecc_format": "1", "concepts": text})
    return path


def cut(path):
    written(path).write_bytes(path.read_bytes()[:-10])


HARMED = {
    "NaN": lambda path: written(path, torch.full((3, 3, 8), float("nan"))),
    "infinite": lambda path: written(path, torch.full((3, 3, 8), float("inf"))),
    "cut": cut,
    "other shape": lambda path: written(path, torch.ones(3, 5, 8)),
    "deep JSON": lambda path: written(path, concepts="[" * 200_000),
    "no JSON": lambda path: written(path, concepts="{"),
    "a number for text": lambda path: written(path, concepts=json.dumps([{**ENTRY, "trigger": 7}])),
    "text for a number": lambda path: written(path, concepts=json.dumps([{**ENTRY, "clip_tokens": "1"}])),
}


@pytest.mark.parametrize("harm", HARMED)
def test_a_damaged_concept_file_gets_a_sentence(tmp_path, harm):
    path = tmp_path / "dog_concept.safetensors"
    HARMED[harm](path)
    with pytest.raises(ModelError, match=r"dog_concept"):
        load_concepts(path)
    with pytest.raises(ValueError, match=r"dog_concept"):
        load_in_comfyui(path, 1.0)
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_file_unharmed_is_read(tmp_path):
    path = written(tmp_path / "dog_concept.safetensors")
    vectors, (saved,) = load_concepts(path)
    (loaded,) = load_in_comfyui(path, 1.0)
    assert torch.equal(vectors["dog"], loaded.vectors) and saved.trigger == loaded.trigger == "sks"


def test_a_name_like_a_path_is_only_a_name(tmp_path):
    entry = {**ENTRY, "name": "../../x"}
    path = tmp_path / "dog_concept.safetensors"
    save_file(
        {"lora_concept.../../x": torch.ones(3, 3, 8)}, path, {"purecc_format": "1", "concepts": json.dumps([entry])}
    )
    assert list(load_concepts(path)[0]) == ["../../x"] and load_in_comfyui(path, 1.0)[0].name == "../../x"
    assert list(tmp_path.iterdir()) == [path]
