"""The recipe in miniature: each stage can be stopped and resumed, and the result is an SD3 that loads."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.helpers.places import ROOT
from tools.pocket.autoencoder import SHRINKS
from tools.pocket.pen import SIDE
from tools.pocket.recipe import RECIPES, Kitchen, Recipe
from tools.pocket.stage import Progress, Stage, Workplace, progress_of, rate_at, train

MODEL = ROOT / "pocket" / "model"


def quiet(folder) -> Workplace:
    """A workplace that prints nothing."""
    return Workplace(folder, seed=0, device="cpu", say=lambda text: None)


def loss_for(model: nn.Linear):
    """A loss that depends on the step's random numbers."""
    return lambda step, chance: (model(torch.randn(8, 4, generator=chance)) - step).square().mean()


def trained(folder, steps: list[int]) -> nn.Linear:
    """A model after N steps, in several sessions."""
    for until in steps:
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        stage = Stage(name="line", steps=100, batch=8, rate=0.01, save_every=0.0)
        with pytest.raises(KeyboardInterrupt) if until < 100 else nullcontext():
            train(stage, quiet(folder), model, stopping(loss_for(model), until))
    return model


def stopping(loss_of, until: int):
    """The same loss, interrupted before step `until`."""

    def loss(step, chance):
        if step == until:
            raise KeyboardInterrupt
        return loss_of(step, chance)

    return loss


def test_a_stage_that_was_stopped_ends_as_if_it_had_not_been(tmp_path):
    whole, in_parts = trained(tmp_path / "a", [100]), trained(tmp_path / "b", [40, 71, 100])
    assert torch.equal(whole.weight, in_parts.weight)


def test_a_stage_that_is_done_is_not_done_again(tmp_path):
    once = trained(tmp_path, [100])
    assert torch.equal(once.weight, trained(tmp_path, [100]).weight)
    assert progress_of(tmp_path, "line").step == 100


def test_the_rate_warms_up_stays_and_falls():
    stage = Stage(name="line", steps=1000, batch=1, rate=1.0)
    rates = [rate_at(stage, Progress(step=step)) for step in (0, 99, 500, 775, 999)]
    assert rates == pytest.approx([0.01, 1.0, 1.0, 0.5, 0.02])


def test_a_stage_that_runs_out_of_time_has_a_low_rate_at_its_end():
    stage = Stage(name="line", steps=100_000, batch=1, rate=1.0, minutes=1)
    assert rate_at(stage, Progress(step=500, seconds=59.0)) < 0.05


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_as_wide_in_heads_as_it_is_deep(name):
    from tools.pocket.flow import new_flow

    model = new_flow(RECIPES[name].depth, RECIPES[name].side, seed=0)
    config = model.transformer.config
    assert config.num_layers == config.num_attention_heads == RECIPES[name].depth
    assert 2 * sum(p.numel() for p in model.parameters()) < 27e6


def test_the_recipe_makes_a_model_that_loads_and_draws_with_the_pipelines_defaults(tmp_path):
    from diffusers import StableDiffusion3Pipeline

    from tools.pocket.publish import publish
    from tools.pocket.tokenizers import LENGTH

    def short(name: str) -> Stage:
        return replace(getattr(RECIPES["cpu"], name), steps=2, batch=4, minutes=None)

    stages = {name: short(name) for name in ("autoencoder", "scorer", "flow", "decoder")}
    kitchen = Kitchen(Recipe(side=64, shift=1.5, depth=3, pictures=16, **stages), quiet(tmp_path))
    model, vae = kitchen.flow(), kitchen.decoder()
    publish(vae, model, 1.5, tmp_path / "model")
    pipeline = StableDiffusion3Pipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a red car", num_inference_steps=2, max_sequence_length=LENGTH).images[0]
    assert picture.size == (64, 64)
    with torch.no_grad():
        here = model.encode(["a red car", ""], "cpu")
        there = pipeline.encode_prompt(
            ["a red car", ""], None, None, do_classifier_free_guidance=False, max_sequence_length=LENGTH
        )
    torch.testing.assert_close(here[0], there[0], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(here[1], there[2], atol=2e-2, rtol=2e-2)


def test_a_larger_model_starts_from_a_published_one(tmp_path):
    from safetensors.torch import load_file

    recipe = replace(RECIPES["cpu"], side=2 * SIDE, pictures=4).as_it_stands()
    kitchen = Kitchen(recipe, quiet(tmp_path), start=MODEL)
    transformer = kitchen.flow().transformer
    published = load_file(MODEL / "transformer" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(transformer.proj_out.weight, published["proj_out.weight"].float())
    assert transformer.pos_embed.pos_embed.shape[1] == (2 * SIDE // SHRINKS) ** 2
    assert kitchen.decoder().config.sample_size == 2 * SIDE
