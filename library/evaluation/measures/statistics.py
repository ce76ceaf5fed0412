"""Means with intervals: the prompt is the unit, its seeds are nested in it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

COVERAGE = (2.5, 97.5)
"""Percentiles at the ends of an interval: 95 %."""
DRAWS = 2000
"""Of the bootstrap and of the permutation test."""
NORMAL_95 = 1.959964
"""Half the width of a normal distribution's 95 % interval, in standard deviations."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval; all NaN where there is nothing to take it from."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: np.ndarray) -> Estimate:
        """From bootstrap draws, the first of which is the data as they are."""
        known = draws[~np.isnan(draws)]
        if np.isnan(draws[0]) or not known.size:
            return cls(np.nan, np.nan, np.nan)
        return cls(float(draws[0]), *(float(edge) for edge in np.percentile(known, COVERAGE)))

    @property
    def leaves_out_zero(self) -> bool:
        """Whether the whole interval is on one side of 0."""
        return bool(self.low > 0 or self.high < 0)


def cluster_means(values: Sequence[float | None], clusters: Sequence[Hashable]) -> dict[Hashable, float]:
    """The mean of each cluster's values; None and NaN do not count, and a cluster without a value is left out."""
    found: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        if value is not None and not np.isnan(value):
            found.setdefault(cluster, []).append(float(value))
    return {cluster: float(np.mean(some)) for cluster, some in found.items()}


def mean_over_clusters(
    values: Sequence[float | None], clusters: Sequence[Hashable], draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Mean of the clusters' means, with the percentile interval of a bootstrap that draws whole clusters.

    Values of one prompt share the prompt, so they say less than as many values of different ones: drawing whole
    prompts keeps the interval honest about that.

    Args:
        values: one for each picture or pair.
        clusters: the prompt of each.
    """
    means = np.array(list(cluster_means(values, clusters).values()))
    if not means.size:
        return Estimate(np.nan, np.nan, np.nan)
    chosen = np.random.default_rng(seed).integers(0, len(means), (draws, len(means)))
    chosen[0] = np.arange(len(means))
    return Estimate.of(means[chosen].mean(1))


def sign_flip_p(differences: Sequence[float], draws: int = DRAWS, seed: int = 0) -> float:
    """How often chance alone would give a mean difference at least as large, if both arms were the same.

    Args:
        differences: of paired clusters, one each. All sign patterns are tried where there are few enough.
    """
    d = np.asarray(differences, dtype=float)
    if not d.size:
        return float("nan")
    if 2 ** len(d) <= draws:
        signs = 1 - 2 * ((np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1)
        return float(np.mean(np.abs((signs * d).mean(1)) >= abs(d.mean()) * (1 - 1e-12)))
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (draws, len(d)))
    as_large = np.abs((signs * d).mean(1)) >= abs(d.mean()) * (1 - 1e-12)
    return float((as_large.sum() + 1) / (draws + 1))


def jackknife(statistic: Callable[[np.ndarray], float], clusters: Sequence[Hashable]) -> Estimate:
    """A statistic of a whole set, with the interval of leaving out one cluster at a time.

    For U-statistics such as KID, whose bootstrap would pair a picture with its own copy.

    Args:
        statistic: of the rows that a (N,) bool array keeps.
        clusters: of each row.
    """
    of_row = np.array([hash(cluster) for cluster in clusters])
    names = np.unique(of_row)
    value = statistic(np.ones(len(of_row), bool))
    if len(names) < 3:
        return Estimate(value, np.nan, np.nan)
    without = np.array([statistic(of_row != name) for name in names])
    spread = np.sqrt((len(names) - 1) * np.mean((without - without.mean()) ** 2))
    return Estimate(value, float(value - NORMAL_95 * spread), float(value + NORMAL_95 * spread))
