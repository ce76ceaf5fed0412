"""The nodes on stand-ins for ComfyUI."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from library.adapters.files import SavedConcept, save_concepts
from tests.helpers import comfy_stand_ins as stand_ins
from tests.helpers.comfy_checkout import load_package
from tests.helpers.comfy_stand_ins import BLOCKS, CLIP_TOKENS, T5_TOKENS, TEXT, WIDTH


@pytest.fixture
def comfy(tmp_path, monkeypatch):
    """The nodes over stand-ins, a loader of files that the trainer wrote, and the vectors in them."""
    for folder in ("loras", "embeddings"):
        (tmp_path / folder).mkdir()
    for name, module in stand_ins.modules(tmp_path).items():
        monkeypatch.setitem(sys.modules, name, module)
    package = "purecc_over_stand_ins"
    for name in [name for name in sys.modules if name.startswith(package)]:
        monkeypatch.delitem(sys.modules, name)
    load_package(package)
    nodes = sys.modules[f"{package}.nodes"]
    model, clip = stand_ins.Model(BLOCKS, WIDTH), stand_ins.CLIP()
    vectors = torch.randn(BLOCKS, CLIP_TOKENS + T5_TOKENS, WIDTH)
    concept = SavedConcept(
        "dog", "sks", "dog", "subject", "[V] dog", {"clip": CLIP_TOKENS, "t5": T5_TOKENS}, True, {"t5": 12}
    )
    save_concepts(tmp_path / "loras" / "dog_concept.safetensors", {"dog": vectors}, [concept])
    halves = {"up": torch.ones(32, 4), "down": torch.ones(4, 128)}
    lora = {f"{stand_ins.BASE}.lora_{name}.weight": half for name, half in halves.items()}
    save_file(lora, tmp_path / "loras" / "dog.safetensors")

    def load(lora="none", concept="dog_concept.safetensors", text=TEXT, strength=1.0, model=model, clip=clip):
        return nodes.PureCCConceptLoader().load(model, clip, lora, concept, text, strength, strength)

    return SimpleNamespace(
        nodes=nodes, model=model, clip=clip, vectors=vectors, concept=concept, load=load, folder=tmp_path
    )
