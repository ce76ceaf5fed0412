"""The ComfyUI nodes in ComfyUI's real code, compared with the trainer's velocity. Needs COMFYUI_DIR=a checkout."""

from __future__ import annotations

import enum
import inspect
import logging
import sys
from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from safetensors import safe_open

from library.adapters.files import load_lora
from library.drawing.sampling import SkipLayerGuidance, initial_noise, noise_levels
from library.hierarchical_embedding_injector import placements_of
from tests.helpers import comfy_checkout as real
from tests.helpers import comfy_stand_ins as stand_ins
from tests.helpers.places import ROOT

pytestmark = pytest.mark.skipif(not real.CHECKOUT, reason=real.WHY_NOT)

PROMPT = "a photo of a sks dog on the beach"
AGREE = 1e-4

POCKET = ROOT / "pocket" / "model"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The trainer's model with a LoRA, its files, and the same model and nodes in ComfyUI."""
    yield real.make_world(tmp_path_factory.mktemp("comfyui"))
    import comfy.model_management

    comfy.model_management.unload_all_models()


def load(world, lora="dog.safetensors", concept="dog_concept.safetensors", text=PROMPT, lora_strength=1.0, **given):
    """The output of the loader node."""
    model, clip = given.pop("model", world.model), given.pop("clip", world.clip)
    loader = world.nodes.PureCCConceptLoader()
    return loader.load(model, clip, lora, concept, text, lora_strength, given.pop("concept_strength", 1.0))


@torch.no_grad()
def expected(world, x, sigma, conditioning, text, lora: bool, concepts: tuple[str, ...]) -> torch.Tensor:
    """The trainer's velocity of latents (B, 16, h, w) for a context that ComfyUI made."""
    rows = len(x)
    tokens = [token for name in concepts for token in world.layouts[name].find(text, world.trainer)]
    placements = placements_of([tokens] * rows, [world.embeddings] * rows, torch.device("cpu"))
    with world.network.using(["student" if lora else None] * rows), world.injector.injecting(placements):
        return world.transformer(
            hidden_states=x,
            timestep=sigma.expand(rows) * 1000,
            encoder_hidden_states=conditioning[0][0].expand(rows, -1, -1),
            pooled_projections=conditioning[0][1]["pooled_output"].expand(rows, -1),
            return_dict=False,
        )[0]


def latents(seed=0, rows=1):
    shape = (rows, 16, real.LATENT, real.LATENT + 2)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def velocity_in_comfyui(model, x, sigma, positive, negative=None, cfg=1.0):
    """One model call inside ComfyUI's sampling, including the guider."""
    import comfy.samplers

    seen = {}

    def one_call(call, noise, sigmas, extra_args=None, callback=None, disable=None):
        seen["denoised"] = call(x, sigma.expand(len(x)), **(extra_args or {}))
        return seen["denoised"]

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative if negative is not None else positive)
    guider.set_cfg(cfg)
    guider.sample(x, torch.zeros_like(x), comfy.samplers.KSAMPLER(one_call), torch.tensor([float(sigma), 0.0]))
    return (x - seen["denoised"]) / sigma


def largest(a, b):
    return (a - b).abs().max().item()


SIGMA = torch.tensor(0.7)


@pytest.mark.parametrize("lora", ["dog.safetensors", "dog_diffusers.safetensors", "none"])
@pytest.mark.parametrize("concept", ["dog_concept.safetensors", "none"])
def test_one_forward_is_the_trainers(world, lora, concept, caplog):
    with caplog.at_level(logging.WARNING):
        model, _, positive = load(world, lora, concept)
    assert not [record.message for record in caplog.records if "not loaded" in record.message.lower()]
    concepts = ("dog",) if concept != "none" else ()
    x = latents(rows=2)
    found = velocity_in_comfyui(model, x, SIGMA, positive)
    wanted = expected(world, x, SIGMA, positive, PROMPT, lora != "none", concepts)
    print(f"one forward, {lora}, {concept}: {largest(found, wanted):.1e} of {wanted.abs().max():.1f}")
    assert largest(found, wanted) < AGREE
    plain = expected(world, x, SIGMA, positive, PROMPT, False, ())
    if concepts or lora != "none":
        assert largest(found, plain) > 100 * AGREE, "the files have an effect"


def sampled(world, model, noise, positive, negative, concepts, cfg=4.0, steps=4):
    """Latents from ComfyUI's sampler, and from the trainer's velocity on the same noise levels."""
    import comfy.sample

    nothing = torch.zeros_like(noise)
    found = comfy.sample.sample(
        model, noise, steps, cfg, "euler", "simple", positive, negative, nothing, disable_pbar=True
    )
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    x = noise * sigmas[0]
    for now, then in pairwise(sigmas):
        v = expected(world, x, now, positive, PROMPT, True, concepts)
        v_null = expected(world, x, now, negative, "blurry", True, ())
        x = x + (then - now) * (v_null + cfg * (v - v_null))
    return found, x / 1.5305 + 0.0609


@pytest.mark.parametrize("concept", ["dog_concept.safetensors", "none"])
@pytest.mark.parametrize("lora", ["dog.safetensors", "dog_diffusers.safetensors"])
def test_sampling_with_guidance_is_the_trainers(world, lora, concept):
    model, clip, positive = load(world, lora, concept)
    (negative,) = world.nodes.PureCCPrompt().encode(clip, "blurry")
    found, wanted = sampled(world, model, latents(3), positive, negative, ("dog",) if concept != "none" else ())
    print(f"sampler with CFG, {lora}, {concept}: {largest(found, wanted):.1e} of {wanted.abs().max():.1f}")
    assert largest(found, wanted) < AGREE


def test_every_key_of_the_kohya_file_patches_a_weight(world):
    model, _, _ = load(world)
    bases = {name.rsplit(".", 2)[0] for name in model.patches}
    assert len(model.patches) == len(load_file_bases(world.folder / "loras" / "dog.safetensors"))
    assert all(base.startswith("diffusion_model.joint_blocks.") for base in bases)
    assert len(load_lora(world.folder / "loras" / "dog.safetensors", real.BLOCKS)) == len(world.network.layers)


def load_file_bases(path):
    with safe_open(path, framework="pt") as file:
        return {key.split(".", 1)[0] for key in file.keys()}  # noqa: SIM118


def test_two_concepts_in_one_prompt(world):
    text = "a sks dog in ohwx style"
    model, clip, _ = load(world, text="")
    model, _, positive = load(world, "none", "style_concept.safetensors", text, model=model, clip=clip)
    x = latents(1)
    found = velocity_in_comfyui(model, x, SIGMA, positive)
    wanted = expected(world, x, SIGMA, positive, text, True, ("dog", "style"))
    assert largest(found, wanted) < AGREE
    assert largest(found, expected(world, x, SIGMA, positive, text, True, ("dog",))) > 100 * AGREE


def test_regions_keep_their_own_concepts(world):
    """Left half sks, right half without: each area gets its own text, in the positive and in the negative."""
    import nodes as comfy_nodes

    model, clip, left = load(world)
    prompt = world.nodes.PureCCPrompt()
    (right,) = prompt.encode(clip, "a house")
    (negative,) = prompt.encode(clip, "blurry")
    set_area, combine = comfy_nodes.ConditioningSetArea(), comfy_nodes.ConditioningCombine()
    half = 4 * 8
    (regions,) = combine.combine(
        set_area.append(left, half, 8 * real.LATENT, 0, 0, 1.0)[0],
        set_area.append(right, 8 * (real.LATENT + 2) - half, 8 * real.LATENT, half, 0, 1.0)[0],
    )
    x, cfg = latents(2), 3.0
    found = velocity_in_comfyui(model, x, SIGMA, regions, negative, cfg)
    v = torch.cat(
        [
            expected(world, x[..., :4], SIGMA, left, PROMPT, True, ("dog",)),
            expected(world, x[..., 4:], SIGMA, right, "a house", True, ()),
        ],
        dim=-1,
    )
    halves = [expected(world, part, SIGMA, negative, "blurry", True, ()) for part in (x[..., :4], x[..., 4:])]
    whole = expected(world, x, SIGMA, negative, "blurry", True, ())
    v_null = (torch.cat(halves, dim=-1) + whole) / 2
    assert largest(found, v_null + cfg * (v - v_null)) < 2 * cfg * AGREE


def test_masks_and_batches(world):
    """Two pictures at once, sks in their left halves and a house in the right ones."""
    import nodes as comfy_nodes

    model, clip, left = load(world)
    (right,) = world.nodes.PureCCPrompt().encode(clip, "a house")
    x = latents(8, rows=2)
    mask = torch.zeros(1, x.shape[2], x.shape[3])
    mask[..., :4] = 1
    set_mask = comfy_nodes.ConditioningSetMask()
    both = set_mask.append(left, mask, "default", 1.0)[0] + set_mask.append(right, 1 - mask, "default", 1.0)[0]
    v = expected(world, x, SIGMA, left, PROMPT, True, ("dog",))
    v_right = expected(world, x, SIGMA, right, "a house", True, ())
    found = velocity_in_comfyui(model, x, SIGMA, both)
    assert largest(found, torch.where(mask[None] > 0, v, v_right)) < AGREE


def test_in_bfloat16(world):
    """As ComfyUI loads SD 3.5 on a graphics card: the vectors follow the text stream's precision."""
    import comfy.sd

    half = comfy.sd.load_diffusion_model(str(world.folder / "model.safetensors"), {"dtype": torch.bfloat16})
    half.model.manual_cast_dtype = None  # on the CPU, ComfyUI would compute in float32
    seen = []

    def watching(args, extra):
        seen.append(args["txt"].clone())
        return extra["original_block"](args)

    model, _, positive = load(world, model=half)
    model.set_model_patch_replace(watching, "dit", "double_block", 1)
    assert torch.isfinite(velocity_in_comfyui(model, latents(9), SIGMA, positive)).all()
    assert seen[0].dtype == torch.bfloat16
    for token in world.layouts["dog"].find(PROMPT, world.trainer):
        vector = world.embeddings["dog"].vectors()[1, token.vector].detach()
        assert torch.equal(seen[0][0, token.position], vector.to(torch.bfloat16))


def test_an_emptied_copy_of_the_prompt_carries_no_concept(world):
    import nodes as comfy_nodes

    model, _, positive = load(world)
    (zero,) = comfy_nodes.ConditioningZeroOut().zero_out(positive)
    x = latents(4)
    found = velocity_in_comfyui(model, x, SIGMA, zero)
    assert largest(found, expected(world, x, SIGMA, zero, PROMPT, True, ())) < AGREE


def test_a_patch_of_another_node_stays(world):
    model, _, positive = load(world)
    calls = []

    def counting(args, extra):
        calls.append(args["txt"].clone())
        return extra["original_block"](args)

    other = model.clone()
    other.set_model_patch_replace(counting, "dit", "double_block", 1)
    x = latents(5)
    found = velocity_in_comfyui(other, x, SIGMA, positive)
    assert largest(found, velocity_in_comfyui(model, x, SIGMA, positive)) == 0
    position = world.layouts["dog"].find(PROMPT, world.trainer)[0].position
    torch.testing.assert_close(calls[0][0, position], world.embeddings["dog"].vectors()[1, 0].detach())


def test_other_guiders_see_the_concept_where_it_is(world):
    """DualCFGGuider calls the model with negative, middle, positive, which is not the usual order."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    model, clip, positive = load(world)
    (middle,) = world.nodes.PureCCPrompt().encode(clip, "a house")
    (negative,) = world.nodes.PureCCPrompt().encode(clip, "blurry")
    guider, x, seen = Guider_DualCFG(model), latents(6), {}

    def one_call(call, noise, sigmas, extra_args=None, callback=None, disable=None):
        seen["denoised"] = call(x, SIGMA.expand(1), **(extra_args or {}))
        return seen["denoised"]

    guider.set_conds(positive, middle, negative)
    guider.set_cfg(3.0, 2.0, nested=False)
    guider.sample(x, torch.zeros_like(x), comfy.samplers.KSAMPLER(one_call), torch.tensor([float(SIGMA), 0.0]))
    v = expected(world, x, SIGMA, positive, PROMPT, True, ("dog",))
    v_middle = expected(world, x, SIGMA, middle, "a house", True, ())
    v_null = expected(world, x, SIGMA, negative, "blurry", True, ())
    wanted = v_null + 2.0 * (v_middle - v_null) + 3.0 * (v - v_middle)
    assert largest((x - seen["denoised"]) / SIGMA, wanted) < 5 * AGREE


def test_t5_pads_as_in_training(world):
    _, clip, positive = load(world)
    (plain,) = world.nodes.PureCCPrompt().encode(clip, "a house")
    assert positive[0][0].shape[1] == plain[0][0].shape[1] == 77 + real.T5_LENGTH
    assert "hooks" in positive[0][1] and "hooks" not in plain[0][1]
    assert world.clip.tokenizer_options == {}


def parameters(function):
    """Names and defaults that a caller can give; newer versions may add more at the end."""
    given = inspect.signature(function).parameters.values()
    return [(one.name, str(one.default)) for one in given if one.name not in ("self", "cls")]


def test_the_stand_ins_mirror_the_real_code(world, tmp_path):
    import comfy
    import folder_paths

    real_modules = {"comfy": comfy, "folder_paths": folder_paths}
    for name, module in stand_ins.modules(tmp_path).items():
        real_module = real_modules.get(name) or sys.modules[name]
        for member, value in vars(module).items():
            if inspect.isfunction(value) or inspect.isclass(value):
                found = getattr(real_module, member)
                if not issubclass(type(value), enum.EnumMeta) and member != "WrappersMP":
                    mirrored = parameters(value)
                    assert mirrored == parameters(found)[: len(mirrored)], member
    assert stand_ins.WrappersMP.APPLY_MODEL == comfy.patcher_extension.WrappersMP.APPLY_MODEL
    assert stand_ins.EnumHookScope.HookedOnly.value == comfy.hooks.EnumHookScope.HookedOnly.value
    for stand_in, real_class in (
        (stand_ins.CLIP, comfy.sd.CLIP),
        (stand_ins.Patcher, comfy.model_patcher.ModelPatcher),
        (stand_ins.SDTokenizer, comfy.sd1_clip.SDTokenizer),
    ):
        for member, value in vars(stand_in).items():
            if inspect.isfunction(value) and not member.startswith("__"):
                mirrored = parameters(value)
                assert mirrored == parameters(getattr(real_class, member))[: len(mirrored)], member
    for attribute in ("tokens_start", "tokenizer_adds_end_token", "embedding_identifier", "embedding_directory"):
        assert hasattr(world.clip.tokenizer.t5xxl, attribute)
    assert world.clip.tokenizer.clip_l.embedding_identifier == stand_ins.SDTokenizer.embedding_identifier


def test_skip_layer_guidance_keeps_its_skipped_blocks(world):
    """It replaces blocks for a separate pass; the vectors still go into all other blocks."""
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    model, clip, positive = load(world)
    (negative,) = world.nodes.PureCCPrompt().encode(clip, "blurry")
    skipped, scale, cfg, x = 1, 2.0, 3.0, latents(7)
    (guided,) = SkipLayerGuidanceDiT.execute(model, scale, 0.0, 1.0, double_layers=str(skipped)).result
    found = velocity_in_comfyui(guided, x, SIGMA, positive, negative, cfg)
    v = expected(world, x, SIGMA, positive, PROMPT, True, ("dog",))
    v_null = expected(world, x, SIGMA, negative, "blurry", True, ())
    block = world.transformer.transformer_blocks[skipped]
    block.forward = lambda hidden_states, encoder_hidden_states, **_: (encoder_hidden_states, hidden_states)
    try:
        v_skipped = expected(world, x, SIGMA, positive, PROMPT, True, ("dog",))
    finally:
        del block.forward
    wanted = v_null + cfg * (v - v_null) + scale * (v - v_skipped)
    assert largest(found, wanted) < 5 * AGREE
    assert largest(v, v_skipped) > 100 * AGREE


@pytest.mark.parametrize("schedule", ["simple", "sgm_uniform", "normal"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_noise_levels_of_sheets_are_comfyuis(world, schedule, shift):
    from comfy.model_sampling import ModelSamplingDiscreteFlow
    from comfy.samplers import calculate_sigmas

    sampling = ModelSamplingDiscreteFlow()
    sampling.set_parameters(shift=shift)
    for steps in (4, 28, 33):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(sigmas=noise_levels(steps, schedule, shift))
        torch.testing.assert_close(scheduler.sigmas, calculate_sigmas(sampling, schedule, steps), rtol=0, atol=1e-6)
    skipping = SkipLayerGuidance([7], 3.0, 0.01, 0.15)
    for share in (0.02, 0.14, 0.005, 0.16):
        inside = sampling.percent_to_sigma(0.15) <= sampling.percent_to_sigma(share) <= sampling.percent_to_sigma(0.01)
        assert skipping.acts_at(sampling.percent_to_sigma(share), shift) is bool(inside)


def test_the_same_seed_is_the_same_noise(world):
    import comfy.sample

    empty = torch.zeros(1, 16, 8, 10)
    assert torch.equal(comfy.sample.prepare_noise(empty, 7)[0], initial_noise((16, 8, 10), 7))


def test_the_bundled_model(tmp_path):
    """Its transformer with ComfyUI's tokenizers and small encoders: velocity and sampling with guidance."""
    transformer = SD3Transformer2DModel.from_pretrained(POCKET / "transformer", torch_dtype=torch.float32)
    if reason := real.why_unknown(transformer):
        pytest.skip(reason)
    world = real.make_world(tmp_path, transformer.requires_grad_(False))
    model, clip, positive = load(world)
    (negative,) = world.nodes.PureCCPrompt().encode(clip, "blurry")
    told = transformer.config
    noise = torch.randn(1, told.in_channels, told.sample_size, told.sample_size)
    wanted = expected(world, noise, SIGMA, positive, PROMPT, True, ("dog",))
    assert largest(velocity_in_comfyui(model, noise, SIGMA, positive), wanted) < AGREE * wanted.abs().max()
    found, wanted = sampled(world, model, noise, positive, negative, ("dog",))
    print(f"bundled model, sampler with CFG: {largest(found, wanted):.1e} of {wanted.abs().max():.1f}")
    assert largest(found, wanted) < AGREE * wanted.abs().max()
