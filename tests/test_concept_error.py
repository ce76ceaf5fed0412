"""Laws of sd-scripts' kinds of loss, which only the concept loss uses."""

from dataclasses import replace

import pytest
import torch

from library.flow import ConceptError, mse
from library.objectives import ConceptTerm, concept_error
from library.parts.branching import objective_of
from library.predictions import COMPLETE, EXTRACTOR, STUDENT, learned
from tests.helpers.runs import disturb, ready

SIGMA = torch.tensor([0.0, 0.3, 1.0])


def velocities() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, 8, 8, generator=generator), torch.randn(3, 4, 8, 8, generator=generator)


@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
def test_huber_is_squared_below_its_threshold_and_straight_beyond(schedule):
    v, goal = velocities()
    wide, narrow = (ConceptError("huber", schedule, 0.5, scale) for scale in (1e3, 1e-3))
    torch.testing.assert_close(wide(v, goal, SIGMA, None), mse(v, goal), rtol=1e-4, atol=0)
    straight = 2 * narrow.threshold(SIGMA) * (v - goal).abs().flatten(1).mean(1)
    torch.testing.assert_close(narrow(v, goal, SIGMA, None), straight, rtol=1e-2, atol=0)


def test_smooth_l1_is_huber_by_its_threshold_and_l1_is_the_size():
    v, goal = velocities()
    huber, smooth = ConceptError("huber", "exponential"), ConceptError("smooth_l1", "exponential")
    expected = huber(v, goal, SIGMA, None) / huber.threshold(SIGMA)
    torch.testing.assert_close(smooth(v, goal, SIGMA, None), expected)
    torch.testing.assert_close(ConceptError("l1")(v, goal, None, None), (v - goal).abs().flatten(1).mean(1))
    assert torch.equal(ConceptError()(v, goal, None, None), mse(v, goal)), "l2 is what it was"


def test_thresholds_fall_from_the_scale_to_c():
    levels = torch.linspace(0, 1, 11)
    assert ConceptError("huber", "constant", 0.1, 3.0).threshold(levels).unique().tolist() == pytest.approx([0.3])
    for schedule in ("exponential", "snr"):
        threshold = ConceptError("huber", schedule, 0.1, 3.0).threshold(levels)
        assert [float(threshold[0]), float(threshold[-1])] == pytest.approx([3.0, 0.3])
        assert (threshold.diff() < 0).all()
    ratio = levels[:-1] / (1 - levels[:-1])
    snr = ConceptError("huber", "snr", 0.1).threshold(levels)[:-1]
    torch.testing.assert_close(snr, 0.9 / (1 + ratio) ** 2 + 0.1)
    torch.testing.assert_close(
        ConceptError("huber", "exponential", 0.1).threshold(torch.tensor([0.25])), torch.tensor([0.1**0.25])
    )


@pytest.mark.parametrize("kind", ["l1", "huber", "smooth_l1"])
def test_one_wild_place_pulls_no_more_than_its_share(kind):
    """With squared errors, the gradient grows with the error; here it does not."""
    goal = torch.zeros(1, 1, 4, 4)
    error, sigma = ConceptError(kind), torch.tensor([0.5])

    def pull(size: float) -> float:
        v = torch.zeros(1, 1, 4, 4)
        v[0, 0, 0, 0] = size
        v.requires_grad_()
        error(v, goal, sigma, None).sum().backward()
        return float(v.grad.abs().max())

    assert pull(1e4) == pytest.approx(pull(1e2), rel=1e-3)
    v = torch.zeros(1, 1, 4, 4, requires_grad=True)
    error(v, goal, sigma, None).sum().backward()
    assert v.grad.isfinite().all(), "no error, no pull"


def test_images_and_masked_places_count_apart():
    v, goal = velocities()
    error, emphasis = ConceptError("smooth_l1"), torch.ones(3, 1, 8, 8)
    emphasis[:, :, 4:] = 0
    whole = error(v, goal, SIGMA, emphasis)
    alone = torch.cat([error(v[i : i + 1], goal[i : i + 1], SIGMA[i : i + 1], emphasis[:1]) for i in range(3)])
    torch.testing.assert_close(whole, alone)
    v[:, :, 4:] += 100
    torch.testing.assert_close(error(v, goal, SIGMA, emphasis), whole)


def test_only_the_concept_loss_asks_for_it(plan_of):
    """In both stages, on the user's pictures and on class pictures; the pure loss and the ties stay squared."""
    run = ready(plan_of(loss_type="huber", huber_schedule="constant", huber_c=0.05, prior_loss_weight=1.0))
    disturb(run)
    stage, error = run.student_stage(), ConceptError("huber", "constant", 0.05)
    scene, replay = stage.scenes.reference(0), stage.scenes.replay(0)
    v = stage.branches.predict(scene, replay)
    parts = stage.objective(v).parts
    expected = error(v[learned(STUDENT, COMPLETE)], v.truth(learned(STUDENT, COMPLETE)).target, scene.sigma, None)
    torch.testing.assert_close(parts["concept"], expected.detach())
    squared = replace(run.settings, loss=replace(run.settings.loss, loss_type="l2"))
    others = objective_of(STUDENT, squared, False)(v).parts
    changed = {name for name, loss in parts.items() if not torch.equal(loss, others[name])}
    assert changed == {"concept", "prior"} and {"pure", "anchor", "replay", "surroundings"} <= set(parts)
    terms = [term for _, _, term in objective_of(EXTRACTOR, run.settings, False).terms]
    assert [term.error for term in terms if isinstance(term, ConceptTerm)] == [error]


def test_the_validation_loss_counts_errors_as_training_does(plan_of):
    measured = {}
    for kind in ("l2", "l1"):
        run = ready(plan_of(loss_type=kind, validation_split=0.5, overwrite=True, method="lora"))
        assert run.validation.error == concept_error(run.settings.loss) == ConceptError(kind)
        measured[kind] = run.validation.of(run.parts, run.student.branch)
    assert measured["l1"] != measured["l2"]
