"""The summary: means with intervals, and which differences are real."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from library.evaluation.external import Key
from library.evaluation.measures.statistics import Estimate, cluster_means, mean_over_clusters, sign_flip_p
from library.evaluation.picture_measures import Measure, Values

Means = dict[str, dict[str, Estimate]]
"""Of each measure, those of each arm."""
Numbers = Mapping[Key, float | None]
"""Of the pictures of an arm; None where a picture has none."""

CERTAIN = 0.05
"""A difference is called real whose interval leaves out 0 and whose p is below this."""


@dataclass(frozen=True)
class Difference:
    """One arm beside another, or beside 0, over the prompts that both have.

    Attributes:
        p: of the sign-flip test.
        prompts: how many there are.
    """

    measure: str
    arm: str
    against: str
    estimate: Estimate
    p: float
    prompts: int

    @property
    def is_real(self) -> bool:
        """Whether chance is a poor explanation."""
        return self.estimate.leaves_out_zero and self.p < CERTAIN


def means(values: Values) -> Means:
    """Each measure of each arm."""
    found = {
        measure: {arm: mean_over_clusters(list(some.values()), [key[0] for key in some]) for arm, some in arms.items()}
        for measure, arms in values.of_picture.items()
    }
    for measure, arms in values.of_arm.items():
        found[measure] = {**found.get(measure, {}), **arms}
    return found


def differences(values: Values, arms: Sequence[str], floor: str) -> list[Difference]:
    """Each arm's signed measures beside 0, its others beside the floor, and everything beside the first arm.

    Args:
        arms: those that are measured, without the controls.
        floor: the pretrained model from other noise.
    """
    found = []
    for name, measure in values.measures.items():
        of_arm = values.of_picture.get(name, {})
        for number, arm in enumerate(arms):
            if arm not in of_arm or not measure.target:
                continue
            if measure.target == "0":
                found.append(_difference(measure, arm, "0", of_arm[arm], None))
            elif measure.needs_base and floor in of_arm:
                found.append(_difference(measure, arm, floor, of_arm[arm], of_arm[floor]))
            if number and arms[0] in of_arm:
                found.append(_difference(measure, arm, arms[0], of_arm[arm], of_arm[arms[0]]))
    return [one for one in found if one.prompts > 1]


def _difference(measure: Measure, arm: str, against: str, one: Numbers, other: Numbers | None) -> Difference:
    pairs: dict[Key, float] = {}
    for key, value in one.items():
        before = 0.0 if other is None else other.get(key)
        if value is not None and before is not None:
            pairs[key] = value - before
    clusters = [key[0] for key in pairs]
    by_prompt = list(cluster_means(list(pairs.values()), clusters).values())
    estimate = mean_over_clusters(list(pairs.values()), clusters)
    return Difference(measure.name, arm, against, estimate, sign_flip_p(by_prompt), len(by_prompt))


def in_words(estimate: Estimate, digits: int) -> str:
    """A mean and its interval; a mean alone where there is no interval."""
    if math.isnan(estimate.value):
        return ""
    value = f"{estimate.value:.{digits}f}"
    if math.isnan(estimate.low) or estimate.low == estimate.high:
        return value
    return f"{value} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"
