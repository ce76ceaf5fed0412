"""Laws of the lambda* loss."""

import pytest
import torch

from library.flow import mse
from library.lambda_star_loss import (
    FixedScale,
    concept_guidance,
    lambda_star,
    measure_guidance,
    pure_loss,
)


def latents(seed: int) -> torch.Tensor:
    return torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("true_scale", [-1.0, 0.0, 0.7, 3.0])
def test_lambda_star_recovers_the_scale_that_was_put_in(true_scale):
    v_base, r = latents(seed=0), latents(seed=1)
    scale = lambda_star(v_base + true_scale * r, v_base, r)
    torch.testing.assert_close(scale, torch.full_like(scale, true_scale), atol=1e-5, rtol=1e-5)


def test_what_lambda_star_leaves_over_is_orthogonal_to_the_concept():
    v_complete, v_base, r = latents(seed=0), latents(seed=1), latents(seed=2)
    rest = v_complete - v_base - lambda_star(v_complete, v_base, r) * r
    assert torch.cosine_similarity(rest.flatten(1), r.flatten(1)).abs().max() < 1e-5


def test_no_other_scale_gives_a_smaller_pure_loss():
    v_complete, v_base, r = latents(seed=0), latents(seed=1), latents(seed=2)
    best = lambda_star(v_complete, v_base, r)
    least = pure_loss(v_complete, v_base, best, r)
    for other in (best + 0.01, best - 0.01, torch.zeros_like(best)):
        assert (pure_loss(v_complete, v_base, other, r) > least).all()


@pytest.mark.parametrize("factor", [1e-2, 0.5, 30.0, -1.0])
def test_rescaling_the_guidance_changes_nothing(factor):
    v_complete, v_base, r = latents(seed=0), latents(seed=1), latents(seed=2)
    before = pure_loss(v_complete, v_base, lambda_star(v_complete, v_base, r), r)
    after = pure_loss(v_complete, v_base, lambda_star(v_complete, v_base, factor * r), factor * r)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)


def test_an_images_lambda_does_not_depend_on_its_neighbours():
    v_complete, v_base, r = latents(seed=0), latents(seed=1), latents(seed=2)
    together = lambda_star(v_complete, v_base, r)
    alone = torch.cat([lambda_star(v_complete[i : i + 1], v_base[i : i + 1], r[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone)
    assert together.unique().numel() == 4


def test_zero_guidance_gives_zero_and_not_nan():
    v_complete, v_base = latents(seed=0), latents(seed=1)
    for r in (torch.zeros(4, 16, 8, 8), 1e-5 * latents(seed=2)):
        assert (lambda_star(v_complete, v_base, r) == 0).all()
    zero = torch.zeros(4, 16, 8, 8)
    assert (lambda_star(zero, zero, zero) == 0).all()


def test_the_gradient_is_the_same_with_lambda_detached_or_live():
    v_base, r = latents(seed=1), latents(seed=2)
    detached, live = latents(seed=0).requires_grad_(), latents(seed=0).requires_grad_()
    pure_loss(detached, v_base, lambda_star(detached, v_base, r), r).sum().backward()
    gap, flat = (live - v_base).flatten(1), r.flatten(1)
    scale = ((gap * flat).sum(1) / flat.square().sum(1)).view(-1, 1, 1, 1)
    mse(live, v_base + scale * r).sum().backward()
    torch.testing.assert_close(detached.grad, live.grad, rtol=1e-4, atol=1e-7)


def test_the_pure_loss_is_what_is_not_parallel():
    v_complete, v_base, r = latents(seed=0), latents(seed=1), latents(seed=2)
    loss = pure_loss(v_complete, v_base, lambda_star(v_complete, v_base, r), r)
    learned = (v_complete - v_base).flatten(1)
    cosine = torch.cosine_similarity(learned, r.flatten(1))
    torch.testing.assert_close(loss, learned.square().mean(1) * (1 - cosine**2), rtol=1e-4, atol=1e-6)


def test_its_gradient_has_no_part_along_the_guidance_but_a_fixed_lambdas_has():
    v_base, r = latents(seed=1), latents(seed=2)
    for scale, has_part in ((lambda_star, False), (FixedScale(1.0), True)):
        v_complete = latents(seed=0).requires_grad_()
        pure_loss(v_complete, v_base, scale(v_complete, v_base, r), r).sum().backward()
        along = torch.cosine_similarity(v_complete.grad.flatten(1), r.flatten(1)).abs()
        assert (along > 0.1).all() if has_part else (along < 1e-5).all()


def test_the_guidance_is_frozen_and_float32():
    v_target, v_against = latents(seed=0).bfloat16().requires_grad_(), latents(seed=1).bfloat16()
    r = concept_guidance(v_target, v_against)
    assert r.dtype == torch.float32 and not r.requires_grad
    torch.testing.assert_close(r, v_target.detach().float() - v_against.float())


def test_lambda_may_be_negative():
    v_base, r = latents(seed=1), latents(seed=2)
    v_complete = v_base - 0.5 * r
    assert (lambda_star(v_complete, v_base, r) < -0.4).all()


def test_measures_are_per_image_and_finite_at_zero():
    zero = torch.zeros(4, 16, 8, 8)
    for values in (measure_guidance(latents(0), latents(1), latents(2)), measure_guidance(zero, zero, zero)):
        for name, value in values.items():
            assert value.shape == (4,) and torch.isfinite(value).all(), name
