"""Training on a pretended GPU: a whole run of both stages, commands that use its LoRA, one step of other presets and
settings, and mistakes that it has to find."""

import shutil
from unittest.mock import patch

import pytest
import torch

from tests.helpers.datasets import DATASET
from tests.helpers.on_card import Failed, draw, evaluate, fuse_loras, step, step_with, train

TWO_SIZES = DATASET + "[[datasets]]" + DATASET.partition("[[datasets]]")[2].replace("32", "64")
FULL = {"preset": "methods/dreambooth", "full_bf16": True, "fused_backward_pass": True, "replay_images": 2}
STEPS = {
    "swapped blocks in fp8": {"preset": "sd35m_6gb", "blocks_to_swap": 1, "base_quantization": "fp8"},
    "int8, offloaded, two sizes": {
        "preset": "pure",
        "base_quantization": "int8",
        "cpu_offload_checkpointing": True,
        "dataset": TWO_SIZES,
    },
    "nf4 in fp16": {"preset": "pure", "base_quantization": "nf4", "mixed_precision": "fp16"},
    "8-bit optimizer, nothing recomputed, one by one": {
        "preset": "pure",
        "optimizer_type": "AdamW8bit",
        "gradient_checkpointing": False,
        "batch_passes": "one_by_one",
    },
    "full fine-tuning inside the backward pass": FULL,
}


@pytest.fixture(scope="module")
def trained(on_card):
    """The files of a whole run: texts, latents, replay, context, both stages, sheets, check, report card."""
    return on_card(train, preset="pure")


def test_a_whole_run_of_both_stages(trained):
    assert {"tiny.safetensors", "tiny_concept.safetensors", "tiny.preview.png"} <= {path.name for path in trained}


def test_its_lora_draws(trained, on_card):
    (lora,) = [path for path in trained if path.name == "tiny.safetensors"]
    on_card(draw, lora, preset="pure")


def test_its_lora_is_fused_with_another(trained, on_card, tmp_path):
    (lora,) = [path for path in trained if path.name == "tiny.safetensors"]
    loras = [shutil.copy(lora, tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    on_card(fuse_loras, loras, preset="pure")


LOOKS = {
    "audit": ["{lora}", "--audit_prompts", "{folder}/audit.txt"],
    "evaluate": [
        *("--lora", "{lora}", "--scorers", "tests.helpers.scorers:PLAIN", "--seeds", "0"),
        *("--prompts", "{folder}/concept.txt", "--preservation", "{folder}/kept.txt"),
    ],
}
"""Commands of purecc_evaluate.py that check a LoRA, with their arguments."""


@pytest.mark.parametrize("command", LOOKS)
def test_its_lora_is_looked_at(trained, on_card, tmp_path, command):
    (lora,) = [path for path in trained if path.name == "tiny.safetensors"]
    lists = {"concept": "a [V] dog city\n", "kept": "a {class}\na red house\n", "audit": "a {class}\na [V] dog\n"}
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    words = [word.format(lora=lora, folder=tmp_path) for word in LOOKS[command]]
    assert str(tmp_path) in on_card(evaluate, command, [*words, "--out", str(tmp_path)], preset="pure")


PRESETS = [
    *("paper", "release", "methods/purecc_merged", "methods/textual_inversion", "methods/mix_of_show"),
    *("methods/cifc", "methods/dco", "methods/dreambooth_ewc", "methods/t_lora", "methods/token_lora"),
]
"""One of each kind that uses the device differently; the others differ from these only in numbers and weights."""
FEWER = {"methods/dreambooth_ewc": {"ewc_fisher_samples": 2}}
"""Lower counts for presets that do something more often than a test needs."""


@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_of_a_preset(on_card, preset):
    counted = on_card(step, preset=preset, resolution=32, **FEWER.get(preset, {}))
    assert counted["kernels"] > 100 and counted["peak"] > 2**18


@pytest.mark.parametrize("case", STEPS)
def test_a_step(on_card, case):
    counted = on_card(step, **STEPS[case])
    assert counted["kernels"] > 500 and counted["peak"] > 2**18


# Mutants: mistakes in the library that the pretended GPU has to find


def left_on_the_cpu(to_device):
    return lambda tensor, device: tensor


def indexed_on_the_card(interpolate):
    return lambda image, *others: interpolate(image[torch.arange(len(image), device="cuda")], *others)


def in_another_precision(velocity):
    def mutant(self, *given, **named):
        with patch.object(self, "dtype", torch.float16):
            return velocity(self, *given, **named)

    return mutant


def drawn_by_the_cpu(rounded):
    return lambda values, generator: rounded(values, torch.Generator())


MUTANTS = {
    left_on_the_cpu: ("library.models.sd3.model.to_device", {"preset": "pure"}, "at least two devices"),
    indexed_on_the_card: ("library.dual_branch_scheduler.interpolate", {"preset": "pure"}, "indices should be"),
    in_another_precision: ("library.models.sd3.model.SD3Model.velocity", {"preset": "pure"}, "should be the same"),
    drawn_by_the_cpu: ("library.training.update.stochastically_rounded", FULL, "'cuda' device type for generator"),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mistake_is_found(on_card, mutant):
    target, given, found = MUTANTS[mutant]
    with pytest.raises(Failed, match=found):
        on_card(step_with, target, mutant, **given)
