"""Commands on a pretended card besides training and looking: a comparison of methods, and conversion, which has no use
for a card."""

import shutil
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from library.adapters.files import save_lora
from library.convert.command import Request, convert
from tests.helpers.datasets import DATASET
from tests.helpers.loras import PART, whole_lora
from tests.helpers.on_card import alone, evaluate


def test_methods_are_compared(on_card, pictures, tmp_path):
    """A plain LoRA, and one that learns vectors: a step of each, and one reference image."""
    (tmp_path / "one").mkdir()
    for ending in ("png", "txt"):
        shutil.copy(pictures / f"0.{ending}", tmp_path / "one")
    (tmp_path / "audit.txt").write_text("a [V] dog\na {class}\n")
    words = ["--methods", "lora,purecc", "--budget", "1", "--checkpoints", "1", "--rates", "1", "--strengths", "1"]
    words += ["--audit_prompts", str(tmp_path / "audit.txt"), "--out", str(tmp_path / "compared")]
    said = on_card(evaluate, "compare", words, preset="lean", dataset=DATASET.format(pictures=tmp_path / "one"))
    assert "| lora | 1 | 1 |" in said and "| purecc | 1 | 1 |" in said


def converted(card, requests):
    """The most memory of the card that conversions held, and what they said of what they saved."""
    said = [convert(request)[-1] for request in requests]
    return card.memory.peak_allocated, said


def test_conversion_leaves_the_card_alone(process, tiny_model, tmp_path):
    layers = {name: one for name, one in whole_lora().items() if name.startswith("transformer_blocks")}
    one, two = (save_lora(tmp_path, name, layers, "fp16", {}, ["kohya"])[0] for name in ("one", "two"))
    save_file({f"diffusion_model.{PART}.diff": torch.randn(32, 128)}, whole := tmp_path / "whole.safetensors")
    to = partial(Request, strengths=[1.0])
    requests = [
        Request([one, two], [1.0, 0.5], to="diffusers", output=tmp_path / "merged.safetensors"),
        to([one], to="kohya", rank=2, output=tmp_path / "smaller.safetensors"),
        to([whole], to="kohya", rank=8, output=tmp_path / "extracted.safetensors"),
        to([one], model=tiny_model, output=tmp_path / "baked"),
    ]
    held, said = process(alone, partial(converted, requests=requests))
    assert held == 0
    assert said == [f"Saved {request.output}" for request in requests]
    assert all(Path(request.output).exists() for request in requests)
