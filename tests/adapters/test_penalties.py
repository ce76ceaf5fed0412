"""Losses of the weights themselves, each compared with its definition."""

import pytest
import torch

from library.adapters.penalties import FisherChange, Overlap, SquaredChange
from tests.helpers.penalties import total
from tests.helpers.runs import disturb, layers_by_name, ready, student_layers


def assert_gradient(penalty, expected: torch.Tensor, factor: float = 3.0) -> None:
    """The penalty's own gradients equal autograd's for the same value."""
    weights = [w for one in penalty.layers.values() for w in one.parameters()]
    wanted = torch.autograd.grad(factor * expected, weights)
    for name in penalty.layers:
        penalty.add_gradient(name, factor)
    for weight, other in zip(weights, wanted, strict=True):
        torch.testing.assert_close(weight.grad, other, rtol=1e-4, atol=1e-6)


def test_the_l2_anchor_is_the_squared_length_of_the_change(plan_of):
    run = ready(plan_of(method="l2_anchor", network_alpha=2.0))
    penalty = SquaredChange(layers_by_name(run))
    assert total(penalty) == 0, "a fresh LoRA changes nothing"
    disturb(run)
    expected = sum((one.scale * one.up @ one.down).square().sum() for one in student_layers(run))
    torch.testing.assert_close(total(penalty), expected, rtol=1e-5, atol=0)
    assert_gradient(penalty, expected)


def test_the_ewc_penalty_is_0_at_the_start_and_quadratic_along_one_weight_with_its_fisher(plan_of):
    run = ready(plan_of(method="dreambooth", ewc_lambda=1.0, ewc_fisher_samples=3))
    layers = layers_by_name(run)
    penalty = FisherChange(layers, run.fisher)
    assert total(penalty) == 0
    name = next(iter(layers))
    for change in (0.1, -0.2):
        with torch.no_grad():
            layers[name].weight.zero_()[3, 5] = change
        expected = float(run.fisher[name][3, 5]) * change**2 / 2
        assert float(total(penalty)) == pytest.approx(expected, rel=1e-5) and expected > 0


@pytest.mark.parametrize("method", ["ewc", "dreambooth"])
def test_the_gradient_of_the_ewc_penalty(plan_of, method):
    run = ready(plan_of(method=method, ewc_lambda=1.0, ewc_fisher_samples=3))
    layers = layers_by_name(run)
    with torch.no_grad():
        for one in layers.values():
            for weight in one.parameters():
                weight.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    run.student_stage()
    expected = sum((run.fisher[name].float() * one.change().square()).sum() / 2 for name, one in layers.items())
    if method == "ewc":
        assert_gradient(FisherChange(layers, run.fisher), expected)
    else:
        penalty, (name, one) = FisherChange(layers, run.fisher), next(iter(layers.items()))
        penalty.add_gradient(name, 3.0)
        torch.testing.assert_close(one.weight.grad, 3.0 * run.fisher[name].float() * one.weight.detach())


def test_the_overlap_is_of_the_input_sides_and_0_where_they_are_orthogonal(plan_of):
    run = ready(plan_of(method="mix_of_show"))
    layers = layers_by_name(run)
    generator = torch.Generator().manual_seed(0)
    earlier = {name: [torch.randn(3, one.down.shape[1], generator=generator)] for name, one in layers.items()}
    run.student_stage()
    penalty = Overlap(layers, earlier)
    expected = sum((earlier[name][0] @ one.down.T).abs().sum() for name, one in layers.items())
    torch.testing.assert_close(total(penalty), expected, rtol=1e-5, atol=0)
    with torch.no_grad():
        for name, one in layers.items():
            basis = torch.linalg.qr(earlier[name][0].T)[0]
            one.down -= one.down @ basis @ basis.T
    assert total(penalty) < 1e-3 * expected


def test_the_gradient_of_the_overlap(plan_of):
    run = ready(plan_of(method="mix_of_show"))
    layers = layers_by_name(run)
    run.student_stage()
    generator = torch.Generator().manual_seed(0)
    earlier = {name: [torch.randn(3, one.down.shape[1], generator=generator)] for name, one in layers.items()}
    for one in layers.values():
        one.up.requires_grad_(False)
    expected = sum((earlier[name][0] @ one.down.T).abs().sum() for name, one in layers.items())
    wanted = torch.autograd.grad(3.0 * expected, [one.down for one in layers.values()])
    penalty = Overlap(layers, earlier)
    for name in layers:
        penalty.add_gradient(name, 3.0)
    for one, other in zip(layers.values(), wanted, strict=True):
        torch.testing.assert_close(one.down.grad, other, rtol=1e-4, atol=1e-6)
