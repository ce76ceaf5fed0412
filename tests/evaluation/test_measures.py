"""Formulas of the evaluation, compared with hand-written references and known results."""

import numpy as np
import pytest
import torch

from library.evaluation.measures.segmentation import pairwise_iou, seg_cons
from library.evaluation.measures.statistics import Estimate, cluster_means, jackknife, mean_over_clusters, sign_flip_p


def boxes(*corners: tuple[int, int, int, int]) -> torch.Tensor:
    masks = torch.zeros(len(corners), 16, 16, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def seg_cons_by_hand(one, other) -> float:
    """The definition, with sets of pixels and loops."""

    def pixels(mask):
        return {(int(y), int(x)) for y, x in mask.nonzero()}

    def towards(some, others):
        best = [max(len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)) for b in others) for a in some]
        return sum(best) / len(best)

    return 100 * (towards(one, other) + towards(other, one)) / 2


def test_seg_cons_is_its_definition():
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        one, other = (torch.rand(k, 16, 16, generator=generator) < 0.3 for k in (3, 5))
        assert seg_cons(one, other) == pytest.approx(seg_cons_by_hand(one, other), rel=1e-5)


def test_seg_cons_knows_the_same_picture_another_one_and_none():
    one, far = boxes((0, 0, 8, 8), (8, 8, 16, 16)), boxes((0, 12, 4, 16))
    nothing = torch.zeros(0, 16, 16, dtype=torch.bool)
    assert seg_cons(one, one) == 100 and seg_cons(one, one.flip(0)) == 100
    assert seg_cons(one, far) == 0 and seg_cons(one, nothing) == 0 and seg_cons(nothing, one) == 0
    assert seg_cons(nothing, nothing) is None
    assert seg_cons(one, torch.cat([one, torch.zeros(1, 16, 16, dtype=torch.bool)])) == 100, "empty masks do not count"


def test_iou_of_two_empty_masks_does_not_divide_by_zero():
    assert pairwise_iou(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)).item() == 0


def test_the_interval_is_about_prompts_not_about_pictures():
    """Eight seeds of a prompt that all agree count no more than one."""
    rng = np.random.default_rng(0)
    of_prompt = rng.standard_normal(12)
    once = mean_over_clusters(of_prompt.tolist(), list(range(12)))
    often = mean_over_clusters(np.repeat(of_prompt, 8).tolist(), np.repeat(np.arange(12), 8).tolist())
    assert often == once
    assert once.high - once.low > 0.5


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        values = rng.standard_normal(25).repeat(2) + rng.standard_normal(50)
        estimate = mean_over_clusters(values.tolist(), np.arange(25).repeat(2).tolist(), draws=500, seed=trial)
        hits += estimate.low <= 0 <= estimate.high
    assert 0.88 <= hits / 200 <= 0.99


def test_what_is_missing_does_not_count_and_a_prompt_without_pictures_falls_away():
    assert cluster_means([1.0, None, 3.0, float("nan")], ["a", "a", "b", "c"]) == {"a": 1.0, "b": 3.0}
    nothing = mean_over_clusters([None], ["a"])
    assert np.isnan(nothing.value) and not nothing.leaves_out_zero


def test_a_difference_is_real_only_where_the_interval_leaves_out_zero():
    assert Estimate(1.0, 0.1, 2.0).leaves_out_zero and Estimate(-1.0, -2.0, -0.1).leaves_out_zero
    assert not Estimate(0.0, 0.0, 0.0).leaves_out_zero and not Estimate(1.0, -0.1, 2.0).leaves_out_zero


def test_sign_flips_count_how_often_chance_does_as_well():
    assert sign_flip_p([1.0, 1.0, 1.0]) == pytest.approx(2 / 8), "all signs alike: two of eight patterns"
    assert sign_flip_p([1.0, -1.0]) == 1
    rng = np.random.default_rng(2)
    assert sign_flip_p((rng.standard_normal(40) + 2).tolist()) < 0.01
    assert sign_flip_p(rng.standard_normal(40).tolist()) > 0.05


def test_the_jackknife_of_a_mean_is_its_textbook_interval():
    values = np.random.default_rng(3).standard_normal(30)
    estimate = jackknife(lambda keep: float(values[keep].mean()), list(range(30)))
    half = 1.959964 * values.std(ddof=1) / np.sqrt(30)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.high - estimate.value == pytest.approx(half, rel=1e-6)
