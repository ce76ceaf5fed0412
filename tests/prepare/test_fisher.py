"""The Fisher information: cached, with mean 1, and larger for weights that change the velocity more."""

import pytest
import torch

from library.prepare.fisher import fisher_of
from tests.helpers.runs import layers_by_name, ready


def unexpected(items):
    pytest.fail("computed again, though it is in the cache")


def test_the_fisher_information_is_of_mean_1_from_the_cache_and_leaves_nothing_behind(plan_of):
    run = ready(plan_of(method="ewc", ewc_fisher_samples=3, replay_images=1))
    mean = sum(float(one.float().sum()) for one in run.fisher.values())
    assert mean / sum(one.numel() for one in run.fisher.values()) == pytest.approx(1.0, rel=1e-2)
    assert not any("fisher" in layer.adapters for layer in run.parts.network.layers.values())
    again = fisher_of(run.parts, run.replay, unexpected)
    assert all(torch.equal(run.fisher[name], again[name]) for name in run.fisher)
    assert len(list((run.parts.cache.folder / "fisher").rglob("*.safetensors"))) == 1


def test_the_fisher_information_says_how_far_the_velocity_moves(plan_of):
    """E over directions of (xi . dv)^2 is |dv|^2: weights with more Fisher information move the velocity more."""
    run = ready(plan_of(method="dreambooth", ewc_lambda=1.0, ewc_fisher_samples=40, replay_images=1))
    name, layer = next(iter(layers_by_name(run).items()))
    order = run.fisher[name].flatten().float().argsort()
    stage = run.student_stage()
    scene = stage.scenes.replay(0)

    def moved(which: torch.Tensor) -> float:
        velocities = []
        for size in (0.0, 0.01):
            with torch.no_grad():
                layer.weight.zero_().view(-1)[which] = size
                velocities.append(stage.branches.predict(stage.scenes.reference(0), scene))
        reading = next(r for r in stage.objective.readings if r.prediction.prompt == "replay")
        return float((velocities[1][reading] - velocities[0][reading]).norm())

    most, least = [moved(one[None]) for one in order[-5:]], [moved(one[None]) for one in order[:5]]
    assert sum(most) > 3 * sum(least)
