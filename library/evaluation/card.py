"""The drift report card: what was measured of one LoRA, three grades, and what each grade can and cannot say.

Thresholds come from scored students of the pocket world (docs/explanation/report-card.md): which drift goes with which
change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from library.evaluation.drift import SIGMAS, Learned, Probe, Shift
from library.evaluation.measures.statistics import Estimate, mean_over_clusters

LETTERS = "ABCDE"
DRIFT_STEPS = (0.05, 0.10, 0.20, 0.30)
"""Drift without [V], up to A, B, C, D: pictures change by a fifth, two fifths, seven tenths and all of what another
seed changes them by."""
OUTSIDE_STEPS = (0.10, 0.20, 0.40, 0.55)
"""Drift outside the subject with [V], up to A, B, C, D: the rest of the picture changes by a fifth, a third, half and
four fifths of what another seed changes it by."""
TOWARD_STEPS = (0.40, 0.30, 0.20, 0.10)
"""Right change on the reference pictures, from A, B, C, D on: in the pocket world .40 went with a fidelity of .55, .30
with .37."""
MOSTLY_BETTER = 0.75
"""A LoRA that predicts the reference pictures better less often than this gets no better letter than D, however far it
moved."""
IGNORED = 0.8
"""From this leak on, the trigger makes practically no difference."""
UNKNOWN = "n/a"


@dataclass(frozen=True)
class Grade:
    """One grade.

    Args:
        letter: A to E, or "n/a".
        because: what it was given for, with the numbers.
    """

    name: str
    letter: str
    because: str


@dataclass(frozen=True)
class Card:
    """The measurements of one LoRA.

    Args:
        drift: by kind of prompt, without [V], with its interval over prompts; "class" has the base texts of [V] prompts
            as well.
        by_sigma: the same at each noise level.
        scale: drift with [V].
        leak: of the class's prompts (a style's: of all), as one number for all of them together.
        outside: None where no subject is known.
        learned, without: on the reference pictures, with and without [V]; None where none were given.
        pictures: change of the pictures of each kind as a share of what another seed changes; empty if none were drawn.
    """

    name: str
    drift: dict[str, Estimate]
    by_sigma: dict[str, list[float]]
    scale: Estimate
    leak: float | None
    outside: Estimate | None
    learned: Learned | None
    without: Learned | None
    pictures: dict[str, float]

    @property
    def grades(self) -> list[Grade]:
        """Concept learned, behaviour kept, capability kept."""
        return [_concept(self), _behaviour(self), _capability(self)]

    @property
    def kept(self) -> float:
        """Mean drift without [V]: what the front sets against what was learned."""
        values = [one.value for one in self.drift.values()]
        return sum(values) / len(values)

    @property
    def reach(self) -> float:
        """What was learned: the right change if there are reference pictures, else the change that [V] makes."""
        return self.learned.toward if self.learned else self.scale.value

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "grades": [asdict(grade) for grade in self.grades], "sigmas": list(SIGMAS)}


def card_of(
    name: str,
    probes: Sequence[Probe],
    shifts: Sequence[Shift],
    learned: Learned | None,
    without: Learned | None,
    pictures: dict[str, float],
) -> Card:
    """Sums up what was measured prompt by prompt."""
    groups = {
        "class": ("class", "concept"),
        "bystander": ("bystander",),
        "unrelated": ("unrelated",),
    }
    if not any(probe.kind in ("class", "bystander") or probe.classless for probe in probes):
        # A style: base texts of its prompts are of no class.
        groups = {"unrelated": ("class", "concept", "unrelated", "bystander")}
    drift, by_sigma = {}, {}
    for group, kinds in groups.items():
        rows = [row for row, probe in enumerate(probes) if probe.kind in kinds]
        if rows:
            drift[group] = _mean([shifts[row].mean_drift for row in rows], [probes[row].base for row in rows])
            by_sigma[group] = [sum(shifts[r].drift[k] for r in rows) / len(rows) for k in range(len(SIGMAS))]
    both = list(zip(probes, shifts, strict=True))
    lengths = [(sum(shift.scale) / len(SIGMAS), probe.base) for probe, shift in both if shift.scale is not None]
    leaks = [shift.leak for shift in shifts if shift.leak is not None]
    weight = sum(length**2 for length, _ in lengths)
    leaked = sum(leak * length**2 for leak, (length, _) in zip(leaks, lengths, strict=True))
    outside = [(shift.outside, probe.base) for probe, shift in both if shift.outside is not None]
    return Card(
        name=name,
        drift=drift,
        by_sigma=by_sigma,
        scale=_mean([length for length, _ in lengths], [text for _, text in lengths]),
        leak=leaked / weight if weight else None,
        outside=_mean([part for part, _ in outside], [text for _, text in outside]) if outside else None,
        learned=learned,
        without=without,
        pictures=pictures,
    )


def letter(value: float, steps: Sequence[float]) -> str:
    """A to E: the first step that a value stays within, rising steps from below, falling ones from above."""
    rising = steps[0] < steps[-1]
    return next((LETTERS[k] for k, step in enumerate(steps) if (value <= step if rising else value >= step)), "E")


def best_of(cards: Sequence[Card]) -> tuple[list[int], int]:
    """Which LoRAs are on the front, and the one with most learned beyond what it broke.

    On the front is what no other beats in both: learned at least as much, and drifted no more. Of those, the best has
    the largest `reach - kept`: both are lengths of changes of the velocity.
    """
    front = [
        k
        for k, one in enumerate(cards)
        if not any(
            other.reach >= one.reach and other.kept <= one.kept and (other.reach, other.kept) != (one.reach, one.kept)
            for other in cards
        )
    ]
    return front, max(front, key=lambda k: cards[k].reach - cards[k].kept)


def _concept(card: Card) -> Grade:
    name = "concept learned"
    if card.learned is None:
        why = f"no reference images were given; with [V], the velocity changes by {_in_words(card.scale)}"
        return Grade(name, UNKNOWN, f"{why}, which may be right or wrong")
    how = f"the reference images are predicted better by {card.learned.gain:.0%}, at {card.learned.better:.0%} of "
    how += f"images and noise levels; right change {card.learned.toward:.2f}"
    if card.learned.better < 0.5 or card.learned.toward <= 0:
        return Grade(name, "E", f"most of the reference images are not predicted better; {how}")
    found = letter(card.learned.toward, TOWARD_STEPS)
    if card.learned.better < MOSTLY_BETTER:
        return Grade(name, max(found, "D"), f"much of the change is wrong; {how}")
    return Grade(name, found, how)


def _behaviour(card: Card) -> Grade:
    reasons, letters = [], []
    if card.outside is not None:
        letters.append(letter(card.outside.value, OUTSIDE_STEPS))
        reasons.append(f"with [V], the velocity outside the subject changes by {_in_words(card.outside)}")
    for group, what in (("class", "the class without [V]"), ("bystander", "two of the class without [V]")):
        if group in card.drift:
            letters.append(letter(card.drift[group].value, DRIFT_STEPS))
            reasons.append(f"{what}: drift of {_in_words(card.drift[group])}")
    if card.leak is not None:
        ignored = ": the trigger makes almost no difference" if card.leak >= IGNORED else ""
        reasons.append(f"{round(100 * card.leak)}% of the effect of [V] appears without it{ignored}")
    if not letters:
        return Grade("behaviour kept", UNKNOWN, "; ".join(["a style has no class and no subject", *reasons]))
    return Grade("behaviour kept", max(letters), "; ".join(reasons))


def _capability(card: Card) -> Grade:
    found = card.drift.get("unrelated")
    if found is None:
        return Grade("capability kept", UNKNOWN, "no unrelated prompt was given")
    shown = card.pictures.get("unrelated")
    also = f"; their images change by {shown:.0%} of the change that another seed makes" if shown is not None else ""
    because = f"unrelated prompts: drift of {_in_words(found)}{also}"
    return Grade("capability kept", letter(found.value, DRIFT_STEPS), because)


def _in_words(one: Estimate) -> str:
    interval = "" if one.low == one.high else f" ({one.low:.3f} to {one.high:.3f})"
    return f"{one.value:.3f}{interval}"


def _mean(values: Sequence[float], prompts: Sequence[str]) -> Estimate:
    return mean_over_clusters(values, prompts)
