"""Sheets are drawn as the UIs draw: noise levels, shift, guidance and skip-layer guidance."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from library.config.groups import groups
from library.config.settings import SampleSettings
from library.drawing.sample_prompts import parse
from library.drawing.sampling import SkipLayerGuidance, initial_noise, noise_levels, sample, shifted
from library.drawing.sheet_maker import SheetMaker
from library.errors import ConfigError
from library.models.interface import Prompt, PromptBatch
from library.models.opening import load_model
from library.training.run import Run
from tests.helpers.tiny import LENGTH

STEPS = 4


def test_unset_is_as_comfyui_draws():
    unset = SampleSettings()
    assert (unset.sample_steps, unset.guidance_scale, unset.sample_scheduler) == (20, 4.0, "simple")
    assert unset.sample_shift is None and unset.skip_layer_guidance_scale == 0


def test_without_a_shift_set_it_is_the_models_own(tiny_model):
    model = load_model(groups()["model"](pretrained_model_name_or_path=str(tiny_model), mixed_precision="no"))
    assert model.sampling_scheduler().shift == FlowMatchEulerDiscreteScheduler().shift == 1
    assert model.sampling_scheduler(3.0).shift == 3
    assert model.sampling_scheduler().shift == 1, "a copy was changed, not the model's"


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_normal_is_diffusers_own_schedule(shift):
    ours, theirs = (FlowMatchEulerDiscreteScheduler(shift=shift) for _ in range(2))
    ours.set_timesteps(sigmas=noise_levels(7, "normal", shift))
    theirs.set_timesteps(7)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas)


def test_simple_and_sgm_uniform_leave_a_whole_step_to_the_end():
    assert noise_levels(4, "simple", 3.0) == [1.0, 0.75, 0.5, 0.25]
    assert noise_levels(28, "simple", 3.0)[1] == 0.965, "a level of the table of 1000, as int(1000 / 28) says"
    even = noise_levels(4, "sgm_uniform", 1.0)
    torch.testing.assert_close(torch.tensor(even), torch.linspace(1, 0.001, 5)[:4])
    for schedule in ("simple", "sgm_uniform", "normal"):
        levels = noise_levels(28, schedule, 3.0)
        assert len(levels) == 28 and levels[0] == 1 and levels == sorted(levels, reverse=True) and levels[-1] > 0


def drawn(model, text, skipping=None, shift=None, guidance_scale=4.0):
    noise = initial_noise(model.latent_shape(32, 32), seed=5)[None]
    states = dict(zip([text, ""], model.encode_text([text, ""]), strict=True))
    prompts, null = (PromptBatch.of([Prompt(one, states[one], ())], [None]) for one in (text, ""))
    calls = []

    def velocity(x, sigma, parts, skipped=()):
        calls.append(tuple(skipped))
        return model.velocity(x, sigma, PromptBatch.joined(parts), skipped)

    scheduler = model.sampling_scheduler(shift)
    latents = sample(velocity, scheduler, noise, prompts, null, STEPS, guidance_scale, "normal", skipping)
    return latents, noise, calls


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_skip_layer_guidance_and_shift_are_the_pipelines(tiny_model, shift):
    """The second and third of four steps have it, both by diffusers' count and by ComfyUI's noise levels."""
    model = load_model(
        groups()["model"](
            pretrained_model_name_or_path=str(tiny_model), mixed_precision="no", t5xxl_max_token_length=LENGTH
        )
    )
    ours, noise, calls = drawn(model, "a red dog city", SkipLayerGuidance([1], 2.0, 0.2, 0.7), shift)
    assert calls == [(), (), (1,), (), (1,), ()]
    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_model)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs = pipeline(
        "a red dog city",
        height=32,
        width=32,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        max_sequence_length=LENGTH,
        latents=noise,
        skip_guidance_layers=[1],
        skip_layer_guidance_scale=2.0,
        skip_layer_guidance_start=0.2,
        skip_layer_guidance_stop=0.7,
        output_type="latent",
    ).images
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    without, _, calls = drawn(model, "a red dog city", shift=shift)
    assert calls == [()] * STEPS
    assert (ours - without).abs().max() > 0.05


def test_skip_layer_guidance_works_without_classifier_free_guidance(tiny_model):
    model = load_model(
        groups()["model"](
            pretrained_model_name_or_path=str(tiny_model), mixed_precision="no", t5xxl_max_token_length=LENGTH
        )
    )
    skipped, _, calls = drawn(model, "a red dog", SkipLayerGuidance([0], 2.0, 0.0, 1.0), guidance_scale=1.0)
    assert calls == [(), (0,)] * STEPS and torch.isfinite(skipped).all()


def test_its_bounds_are_comfyuis_noise_levels():
    skipping = SkipLayerGuidance([7], 3.0, 0.01, 0.15)
    assert not skipping.acts_at(1.0, 3.0), "not in the first step"
    assert skipping.acts_at(shifted(0.9, 3.0), 3.0) and not skipping.acts_at(shifted(0.84, 3.0), 3.0)
    assert not SkipLayerGuidance([7], 0.0, 0.01, 0.15).acts_at(0.95, 3.0)


def test_a_block_that_the_model_lacks_is_named_before_training(plan_of):
    with pytest.raises(ConfigError, match="block 7; this model has blocks 0 to 2"):
        plan_of(skip_layer_guidance_scale=3.0)
    plan_of(skip_layer_guidance_scale=3.0, skip_guidance_layers=[1])


def test_a_prompts_shift_and_the_settings_reach_the_sheet(plan_of, monkeypatch):
    seen = []

    def watched(velocity, scheduler, noise, *given):
        seen.append((scheduler.shift, given[-2], given[-1].scale, given[2], given[3]))
        return noise

    monkeypatch.setattr("library.drawing.drawn.sample", watched)
    run = Run(plan_of(sample_shift=2.0, skip_layer_guidance_scale=1.5, skip_guidance_layers=[0]))
    prompts = [parse(line, run.plan.config.concepts, "here") for line in ("a dog", "a dog --fs 5 --s 7 --l 2")]
    run.plan.parts.texts.prepare(["a dog", ""])
    SheetMaker(run.plan.parts.attach(), prompts, (32, 32)).make(run.folder / "sheet.png", "", {})
    assert seen == [(2.0, "simple", 1.5, 2, 4.0), (5.0, "simple", 1.5, 7, 2.0)]


@pytest.mark.parametrize("shift", ["0", "-1"])
def test_a_shift_must_be_above_0(shift):
    with pytest.raises(ConfigError, match="a shift must be above 0"):
        parse(f"a dog --fs {shift}", [], "prompts.txt")
