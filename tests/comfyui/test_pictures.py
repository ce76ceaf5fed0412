"""Pictures of the bundled model, drawn in ComfyUI with its own text code, node and sampler, and by the trainer.

Needs COMFYUI_DIR=a checkout. `comfy_pocket.py` says which parts of the bundled model ComfyUI can't use.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import TomlFile, read_settings
from library.drawing.sampling import initial_noise, sample
from library.dual_branch_scheduler import PRETRAINED_BRANCH
from library.models.interface import PromptBatch
from library.preflight.plan import make_plan
from library.prompts import NULL_PROMPT
from library.training.run import Run
from tests.helpers import comfy_checkout as real
from tests.helpers import comfy_pocket as pocket
from tests.helpers.places import ROOT

pytestmark = pytest.mark.skipif(not real.CHECKOUT, reason=real.WHY_NOT)

TRIGGER = "sks"
"""The demo's."""
TEXTS = [f"a {TRIGGER} creature in the snow by day in clay", f"a {TRIGGER} creature on the beach"]
TEXTS += ["a blue house in the city by day"]
STEPS, GUIDANCE, SHIFT = 12, 4.0, 1.5
AGREE = 1e-4
"""Of latents whose values reach 4."""
SHORT = {
    "eta": 0.0, "max_train_steps": 60, "context_train_steps": 20, "replay_images": 8, "replay_sample_steps": 6,
    "sample_steps": 2, "sample_seeds": 1, "sample_strengths": [], "save_precision": "float",
    "log_with": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A short training of the demo's concept, and its files in ComfyUI."""
    folder = tmp_path_factory.mktemp("pictures")
    given = {**SHORT, "output_dir": str(folder / "out"), "cache_dir": str(folder / "cache")}
    with contextlib.chdir(ROOT):
        settings = read_settings(TomlFile(Path("presets/demo.toml")), given)
        plan = make_plan(settings, read_concepts_and_pictures(None, settings))
        run = Run(replace(plan, also=tuple(TEXTS)))
        run.train()
    parts = run.parts
    with contextlib.chdir(ROOT):
        parts.texts.prepare(TEXTS)
    real.import_comfyui()
    import folder_paths

    nodes = sys.modules[f"{real.load_package('purecc_draws').__name__}.nodes"]
    for kind in ("loras", "embeddings"):
        folder_paths.add_model_folder_path(kind, str(folder / "out"), is_default=True)
    model, clip = pocket.model_of_pocket(folder), pocket.clip_of_pocket(folder / "out")
    yield SimpleNamespace(
        parts=parts,
        student=run.student,
        shape=parts.model.latent_shape(*plan.size),
        nodes=nodes,
        model=model,
        clip=clip,
        folder=folder / "out",
    )
    import comfy.model_management

    comfy.model_management.unload_all_models()


def ours(world, text: str, branch, seed: int) -> torch.Tensor:
    """The trainer's latents, as its sheets draw."""
    parts = world.parts
    prompts, null = (PromptBatch.of([parts.texts[one]], [None]) for one in (text, NULL_PROMPT))
    scheduler = parts.model.sampling_scheduler(SHIFT)
    return sample(
        lambda *given: parts.velocity(branch, *given), scheduler, initial_noise(world.shape, seed)[None], prompts, null,
        STEPS, GUIDANCE, "simple",
    )  # fmt: skip


def theirs(world, model, positive, negative, seed: int) -> torch.Tensor:
    """ComfyUI's latents, scaled as in the trainer."""
    import comfy.sample
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    (model,) = ModelSamplingSD3().patch(model, SHIFT)
    empty = torch.zeros(1, *world.shape)
    noise = comfy.sample.prepare_noise(empty, seed)
    found = comfy.sample.sample(
        model, noise, STEPS, GUIDANCE, "euler", "simple", positive, negative, empty, disable_pbar=True
    )
    return model.model.process_latent_in(found)


def compare(world, what: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
    pictures = [world.parts.model.decode(one) for one in (found, wanted)]
    bytes_of = [((one.clamp(-1, 1) + 1) * 127.5).round() for one in pictures]
    equal = (bytes_of[0] == bytes_of[1]).float().mean()
    print(
        f"{what}: latents {(found - wanted).abs().max():.1e} of {wanted.abs().max():.1f}, pixels "
        f"{(bytes_of[0] - bytes_of[1]).abs().max():.0f} of 255 at most, {equal:.2%} of them equal"
    )
    assert (found - wanted).abs().max() < AGREE
    assert (bytes_of[0] - bytes_of[1]).abs().max() <= 1


@pytest.mark.parametrize("text", [*TEXTS, NULL_PROMPT])
def test_prompts_are_read_as_the_trainer_reads_them(world, text):
    ((context, told),) = world.clip.encode_from_tokens_scheduled(world.clip.tokenize(text))
    states = world.parts.texts[text].states
    print(f"{text!r}: states {(context[0] - states.context).abs().max():.1e} of {states.context.abs().max():.1f}")
    torch.testing.assert_close(context[0], states.context, rtol=0, atol=1e-4)
    torch.testing.assert_close(told["pooled_output"][0], states.pooled, rtol=0, atol=1e-4)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("lora", ["demo.safetensors", "demo_diffusers.safetensors"])
def test_pictures_with_the_node_are_the_trainers(world, text, lora):
    loader, prompt = world.nodes.PureCCConceptLoader(), world.nodes.PureCCPrompt()
    model, clip, positive = loader.load(world.model, world.clip, lora, "demo_concept.safetensors", text, 1.0, 1.0)
    (negative,) = prompt.encode(clip, "")
    wanted = ours(world, text, world.student.branch, seed=5)
    compare(world, f"{lora}, {text!r}", theirs(world, model, positive, negative, 5), wanted)
    if TRIGGER in text:
        assert (ours(world, text, world.student.word, 5) - wanted).abs().max() > 100 * AGREE


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("lora", ["demo.safetensors", "demo_diffusers.safetensors"])
def test_a_lora_loader_and_the_trigger_give_what_the_trainer_shows(world, text, lora):
    """Only ComfyUI's own nodes: load a LoRA, encode a prompt, sample."""
    import nodes as comfy_nodes

    model, _ = comfy_nodes.LoraLoader().load_lora(world.model, world.clip, lora, 1.0, 0.0)
    encode = comfy_nodes.CLIPTextEncode()
    (positive,), (negative,) = encode.encode(world.clip, text), encode.encode(world.clip, "")
    wanted = ours(world, text, world.student.shown, 7)
    compare(world, f"word alone, {lora}, {text!r}", theirs(world, model, positive, negative, 7), wanted)
    if TRIGGER in text:
        assert (ours(world, text, PRETRAINED_BRANCH, 7) - wanted).abs().max() > 100 * AGREE
