"""Methods at equal fidelity: a method that learns nothing preserves everything, so nothing else can be compared.

Every trial is a curve over training length. Where its fidelity first reaches the asked level, all other measures are
read off, linearly between checkpoints. Intervals are bootstrapped over trials (concept and seed) and over prompts; the
same prompts are drawn for every method.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.method.arms import BESIDE
from library.evaluation.measures.statistics import Estimate

DRAWS = 400
"""Of the bootstrap; the first is the data as they are."""

CONTROLS = ("pretrained", "pretrained, other noise", "drawn")
"""The pretrained model shown the trigger; itself from other noise; drawn pictures of what was asked for."""

MEASURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "follow": ("follow", ("concept",)),
    "seg_cons": ("seg_cons", ("concept",)),
    "outside": ("outside", ("concept",)),
    "trap_asked": ("trap_asked", ("concept",)),
    "trap_unasked": ("trap_unasked", ("concept",)),
    "contamination": ("contamination", ("class",)),
    "pixels_class": ("pixels", ("class",)),
    "pixels_unrelated": ("pixels", ("unrelated",)),
    "features": ("features", ("class", "unrelated")),
    "accuracy": ("accuracy", ("class", "unrelated")),
    "drift": ("drift", ("class", "unrelated")),
}
"""Each figure of the table: the measure, and the sorts of prompts it is the mean of."""


@dataclass(frozen=True)
class Scale:
    """Fidelity of a concept as a share of what can be had: 0 is the pretrained model's, 1 that of drawn pictures."""

    floor: float
    ceiling: float

    def share(self, fidelity: np.ndarray) -> np.ndarray:
        """The same on that scale."""
        return (fidelity - self.floor) / (self.ceiling - self.floor)


@dataclass(frozen=True)
class Row:
    """A method at one level of fidelity.

    Attributes:
        reached: trials that get there, of `trials`.
        steps: of stage 2 that it took them.
    """

    arm: str
    trials: int
    reached: int
    steps: float
    figures: dict[str, Estimate]


class Comparison:
    """Results of trials, ready to be read at any fidelity.

    Args:
        results: of trials; controls (`pretrained`, `drawn`) among them, one for each concept.
    """

    def __init__(self, results: Iterable[dict[str, Any]], seed: int = 0) -> None:
        by_arm: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for result in results:
            by_arm[result["arm"]].append(result)
            for way, called in BESIDE.items():
                if way in result:
                    beside = {"arm": result["arm"] + called, "checkpoints": result[way], "strengths": []}
                    by_arm[beside["arm"]].append({**result, **beside})
        controls = {name: by_arm.pop(name, []) for name in CONTROLS}
        self.start, drawn = (
            {result["concept"]: result["checkpoints"][0] for result in controls[name]}
            for name in ("pretrained", "drawn")
        )
        self.scales = {
            name: Scale(
                _mean(self.start[name]["probes"]["concept"]["fidelity"]), _mean(d["probes"]["concept"]["fidelity"])
            )
            for name, d in drawn.items()
        }
        self.arms, self._controls = dict(by_arm), controls
        self.rng = np.random.default_rng(seed)
        self._weights: dict[tuple[str, str], np.ndarray] = {}
        self._curves = {
            arm: {
                (r["concept"], r["seed"]): self._curve(r) for r in sorted(some, key=lambda r: (r["concept"], r["seed"]))
            }
            for arm, some in self.arms.items()
        }

    def controls(self) -> list[Row]:
        """What bounds the table, at no fidelity in particular, each concept once."""
        rows = []
        for name, results in self._controls.items():
            readings = [_end(self._curve(result)) for result in results]
            rows.append(Row(name, len(readings), len(readings), np.nan, self._figures(readings)))
        return rows

    def rows(self, level: float) -> list[Row]:
        """Every method at a level of fidelity."""
        return [self._row(arm, level) for arm in self.arms]

    def finished(self, level: float) -> list[Row]:
        """Every method after its last step, whatever its fidelity, which is one of the figures.

        Args:
            level: of fidelity; `reached` counts the students that end at or above it.
        """
        rows = []
        for arm, curves in self._curves.items():
            ends = [_end(curve) for curve in curves.values()]
            figures = self._figures(ends, ("fidelity", *MEASURES))
            reached = sum(bool(end["fidelity"][0] >= level) for end in ends)
            rows.append(Row(arm, len(ends), reached, float(np.mean([end["steps"] for end in ends])), figures))
        return rows

    def differences(self, arm: str, other: str, level: float) -> tuple[int, dict[str, Estimate]]:
        """`arm` minus `other` over the trials that both have and in which both get there; and how many those are."""
        both = sorted(self._curves[arm].keys() & self._curves[other].keys())
        one = {trial: _read(self._curves[arm][trial], level) for trial in both}
        two = {trial: _read(self._curves[other][trial], level) for trial in both}
        both = [trial for trial in both if not (np.isnan(one[trial]["steps"][0]) or np.isnan(two[trial]["steps"][0]))]
        return len(both), self._figures(
            [{name: one[trial][name] - two[trial][name] for name in MEASURES} for trial in both]
        )

    def curve(self, arm: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Mean over trials at each checkpoint: fidelity (share) and measures; for the plot."""
        curves = list(self._curves[arm].values())
        names = ["fidelity", *MEASURES]
        return curves[0]["steps"], {n: np.nanmean([c[n][:, 0] for c in curves], axis=0) for n in names}

    def strengths(self, arm: str) -> dict[float, dict[str, float]]:
        """Fidelity and measures of finished students by the LoRA's strength, means over trials and prompts."""
        seen: dict[float, list[dict[str, float]]] = defaultdict(list)
        for result in self.arms[arm]:
            scale = self.scales[result["concept"]]
            finished = {"strength": 1.0, "probes": result["checkpoints"][-1]["probes"]}
            for one in [finished, *result["strengths"]] if result["strengths"] else []:
                means = {
                    name: float(
                        np.nanmean(np.array([one["probes"][sort].get(measure, [None]) for sort in sorts], float))
                    )
                    for name, (measure, sorts) in MEASURES.items()
                    if all(measure in one["probes"][sort] for sort in sorts)
                }
                means["fidelity"] = float(scale.share(np.mean(one["probes"]["concept"]["fidelity"])))
                seen[one["strength"]].append(means)
        names = ["fidelity", *MEASURES]
        return {
            strength: {name: float(np.mean([m[name] for m in some if name in m])) for name in names}
            for strength, some in sorted(seen.items())
        }

    def _row(self, arm: str, level: float) -> Row:
        readings = [_read(curve, level) for curve in self._curves[arm].values()]
        there = [reading for reading in readings if not np.isnan(reading["steps"][0])]
        steps = float(np.mean([reading["steps"][0] for reading in there])) if there else np.nan
        return Row(arm, len(readings), len(there), steps, self._figures(there))

    def _figures(
        self, readings: Sequence[Mapping[str, np.ndarray]], names: Iterable[str] = MEASURES
    ) -> dict[str, Estimate]:
        """Each figure's mean over trials, with its interval."""
        chosen = self._choose(len(readings))
        return {name: Estimate.of(_over_trials([one[name] for one in readings], chosen)) for name in names}

    def _choose(self, count: int) -> np.ndarray:
        """Which trials each draw has, (DRAWS, count); the first draw has each once."""
        chosen = np.random.default_rng(count).integers(0, max(count, 1), (DRAWS, count))
        chosen[0] = np.arange(count)
        return chosen

    def _curve(self, result: dict[str, Any]) -> dict[str, np.ndarray]:
        """Fidelity and measures, (checkpoints, DRAWS) each, from before the first step on; and the steps."""
        concept = result["concept"]
        checkpoints = [{"steps": 0, **self.start[concept]}, *result["checkpoints"]]
        checkpoints[0]["steps"] = 0
        curve = {"steps": np.array([checkpoint["steps"] for checkpoint in checkpoints], dtype=float)}
        raw = self._drawn_means(concept, checkpoints, "fidelity", ("concept",))
        curve["fidelity"] = self.scales[concept].share(raw)
        for name, (measure, sorts) in MEASURES.items():
            curve[name] = self._drawn_means(concept, checkpoints, measure, sorts)
        return curve

    def _drawn_means(
        self, concept: str, checkpoints: list[dict[str, Any]], measure: str, sorts: tuple[str, ...]
    ) -> np.ndarray:
        values, weights = [], []
        for sort in sorts:
            some = [checkpoint["probes"].get(sort, {}).get(measure) for checkpoint in checkpoints]
            if any(one is None for one in some):
                return np.full((len(checkpoints), DRAWS), np.nan)
            values.append(np.array(some, dtype=float))
            weights.append(self._prompt_weights(concept, sort, values[-1].shape[1]))
        value, weight = np.concatenate(values, axis=1), np.concatenate(weights, axis=0)
        known = ~np.isnan(value)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (np.nan_to_num(value) @ weight) / (known.astype(float) @ weight)

    def _prompt_weights(self, concept: str, sort: str, count: int) -> np.ndarray:
        """How often each draw has each prompt, (count, DRAWS), the same for every method."""
        if (concept, sort) not in self._weights:
            weights = self.rng.multinomial(count, np.full(count, 1 / count), DRAWS).T.astype(float)
            weights[:, 0] = 1
            self._weights[concept, sort] = weights
        return self._weights[concept, sort]


def _read(curve: dict[str, np.ndarray], level: float) -> dict[str, np.ndarray]:
    """Measures and steps where fidelity first reaches the level, (DRAWS,) each; NaN in draws where it never does."""
    fidelity = curve["fidelity"]
    above = fidelity >= level
    reached, index = above.any(0), above.argmax(0).clip(1)
    draws = np.arange(fidelity.shape[1])
    low, high = fidelity[index - 1, draws], fidelity[index, draws]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.clip(np.where(high > low, (level - low) / (high - low), 0.0), 0.0, 1.0)
    result = {}
    for name in ("steps", *MEASURES):
        values = curve[name] if curve[name].ndim == 2 else np.repeat(curve[name][:, None], len(draws), axis=1)
        result[name] = np.where(reached, (1 - part) * values[index - 1, draws] + part * values[index, draws], np.nan)
    return result


def _end(curve: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fidelity and measures after the last step, (DRAWS,) each."""
    return {name: values[-1] for name, values in curve.items()}


def _over_trials(readings: list[np.ndarray], chosen: np.ndarray) -> np.ndarray:
    """Mean over each draw's trials, (DRAWS,)."""
    if not readings:
        return np.full(DRAWS, np.nan)
    stacked = np.stack(readings)  # (trials, DRAWS)
    picked = stacked[chosen, np.arange(DRAWS)[:, None]]  # (DRAWS, trials)
    known = ~np.isnan(picked)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nansum(picked, axis=1) / known.sum(1)


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
