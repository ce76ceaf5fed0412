"""How gradients change weights: plain, with a scaled loss, inside the backward pass."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from library.config.settings import OptimizerSettings
from library.training.update import Fused, Learner, Plain, Scaled, Update, make_update

SETTINGS = OptimizerSettings(optimizer_type="AdamW", max_grad_norm=0.0)
CPU = torch.device("cpu")


def learner() -> Learner:
    return Learner("lr", [nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor([3.0]))], 0.1)


def stepped(update: Update, steps: int = 3) -> list[torch.Tensor]:
    for step in range(steps):
        update.begin(step)
        update.backward(sum(weight.square().sum() for weight in update.parameters))
        update.clip()
        update.step()
    return [weight.detach().clone() for weight in update.parameters]


@pytest.mark.parametrize(("asked", "kind"), [({}, Plain), ({"fp16": True}, Scaled), ({"fused": True}, Fused)], ids=str)
def test_the_kind_is_chosen_once_and_all_kinds_make_the_same_step(asked, kind):
    update = make_update([learner(), Learner("none", [], 1.0)], SETTINGS, device=CPU, **asked)
    assert type(update) is kind and update.rates() == {"lr": 0.1} and update.repeatable is (kind is not Fused)
    for mine, plain in zip(stepped(update), stepped(Plain([learner()], SETTINGS)), strict=True):
        assert torch.equal(mine, plain)
    assert all(weight.grad is None for weight in update.parameters)


@pytest.mark.parametrize("kind", [Plain, Fused])
def test_the_length_of_the_gradient_is_that_before_clipping_and_of_one_step_alone(kind):
    update = kind([learner()], replace(SETTINGS, max_grad_norm=0.5))
    for _ in range(2):
        update.backward((update.parameters[0] * torch.tensor([2.0, 1.0])).sum() + 2 * update.parameters[1].sum())
        assert update.clip() == pytest.approx(3.0)
        update.step()


def test_a_process_without_an_image_of_a_whole_step_takes_the_scale_out_of_what_the_others_learned():
    update = make_update([learner()], SETTINGS, device=CPU, fp16=True)
    for weight in update.parameters:
        weight.grad = torch.full_like(weight, 3.0 * update.scaler.get_scale())
    assert update.clip() == pytest.approx(3 * 3**0.5)


def test_a_scaled_update_scales_less_after_an_infinite_gradient_and_remembers_it():
    update, before = make_update([learner()], SETTINGS, device=CPU, fp16=True), learner().parameters
    scale = update.scaler.get_scale()
    update.backward(float("inf") * update.parameters[0].sum())
    assert not torch.tensor(update.clip()).isfinite()
    assert f"{scale / 2:g}" in update.reject()
    update.forget()
    assert all(torch.equal(mine, old) for mine, old in zip(update.parameters, before, strict=True))
    again = make_update([learner()], SETTINGS, device=CPU, fp16=True)
    again.load_state(update.state())
    assert again.scaler.get_scale() == scale / 2
