"""What a stage learns: a sum of terms, each of which names the predictions it reads.

A term is one loss of one equation. Which terms a run has is decided here, once, from its settings; the training step
only adds them up. Other methods are other sums of terms over the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from library.config.settings import PureLearningSettings
from library.flow import mse
from library.lambda_star_loss import AdaptiveScale, FixedScale, concept_guidance, measure_guidance, pure_loss

STUDENT, EXTRACTOR, PRETRAINED = "student", "extractor", "pretrained"
"""The branches: whose weights predict. The extractor while guidance is computed may run without its LoRA."""
GUIDE = "guide"
"""The extractor as it is used for R(target)."""

COMPLETE, BASE, TARGET, CLASS, NULL, REPLAY = "complete", "base", "target", "class", "null", "replay"
"""The prompts. `REPLAY` is the only one that belongs to a replayed picture; the others to a reference picture."""


@dataclass(frozen=True)
class Prediction:
    """One velocity: what a branch predicts for a prompt."""

    branch: str
    prompt: str


@dataclass(frozen=True)
class Reading:
    """A prediction as a term uses it: with its gradient or without."""

    prediction: Prediction
    gradient: bool


def learned(branch: str, prompt: str) -> Reading:
    """A prediction whose gradient is used."""
    return Reading(Prediction(branch, prompt), gradient=True)


def given(branch: str, prompt: str) -> Reading:
    """A prediction that is taken as it is."""
    return Reading(Prediction(branch, prompt), gradient=False)


class Velocities:
    """The predictions of one step, (B, C, H, W) float32 each, and the velocity that the flow really has."""

    def __init__(self, predictions: Mapping[Prediction, Tensor], target: Tensor) -> None:
        self._predictions, self.target = predictions, target

    def __getitem__(self, reading: Reading) -> Tensor:
        velocity = self._predictions[reading.prediction]
        return velocity if reading.gradient else velocity.detach()


class Term(Protocol):
    """One loss."""

    readings: tuple[Reading, ...]

    def __call__(self, v: Velocities) -> Tensor:
        """The loss of each image, (B,), float32."""


@dataclass(frozen=True)
class ConceptTerm:
    """L_CC = ||(x_1 - x_0) - v(x_t | y_complete)||^2: plain flow matching on the pictures (PureCC, Eq. 3)."""

    complete: Reading

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self.complete,)

    def __call__(self, v: Velocities) -> Tensor:
        return mse(v[self.complete], v.target)


@dataclass(frozen=True)
class PureTerm:
    """L_PureCC: the student equals the original plus scaled concept guidance (PureCC, Eq. 8 to 14)."""

    complete: Reading
    original: Reading
    target: Reading
    against: Reading
    scale: Callable[[Tensor, Tensor, Tensor], Tensor]

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self.complete, self.original, self.target, self.against)

    def __call__(self, v: Velocities) -> Tensor:
        r_tar = concept_guidance(v[self.target], v[self.against])  # R(tar), frozen
        lam = self.scale(v[self.complete], v[self.original], r_tar)
        return pure_loss(v[self.complete], v[self.original], lam, r_tar)

    def measure(self, v: Velocities) -> dict[str, Tensor]:
        """lambda*, cosine and lengths of each image, (B,)."""
        r_tar = concept_guidance(v[self.target], v[self.against])
        return measure_guidance(v[self.complete], v[self.original], r_tar)


@dataclass(frozen=True)
class TieTerm:
    """||v_learned(y) - v_pretrained(y)||^2: keeps a branch where the pretrained model is, for one prompt (ours).

    On the base prompt of a picture it is the anchor; on a picture and prompt of the pretrained model's own, replay.
    """

    tied: Reading
    to: Reading

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self.tied, self.to)

    def __call__(self, v: Velocities) -> Tensor:
        return mse(v[self.tied], v[self.to])


@dataclass(frozen=True)
class Losses:
    """The losses of one batch."""

    total: Tensor
    """(), what is minimised."""
    parts: dict[str, Tensor]
    """Each term's loss of each image before its weight, (B,), no gradient."""
    measures: dict[str, Tensor] = field(default_factory=dict)
    """lambda*, cosine and lengths of each image, (B,)."""


class Objective:
    """A weighted sum of terms.

    Args:
        terms: (name, weight, term). Terms of weight 0 are left out, so their predictions are never made.
    """

    def __init__(self, *terms: tuple[str, float, Term]) -> None:
        self.terms = tuple((name, weight, term) for name, weight, term in terms if weight > 0)

    @property
    def readings(self) -> frozenset[Reading]:
        """Everything that the terms read."""
        return frozenset(reading for _, _, term in self.terms for reading in term.readings)

    def __call__(self, v: Velocities) -> Losses:
        parts = {name: term(v) for name, _, term in self.terms}
        total = sum(weight * parts[name].mean() for name, weight, _ in self.terms)
        measures = [term.measure(v) for _, _, term in self.terms if isinstance(term, PureTerm)]
        return Losses(total, {name: loss.detach() for name, loss in parts.items()}, *measures)


def extractor_objective(pure: PureLearningSettings) -> Objective:
    """Stage 1: the extractor learns the concept; our anchor keeps it from learning it under other names."""
    return Objective(
        ("concept", 1.0, ConceptTerm(learned(EXTRACTOR, COMPLETE))),
        ("anchor", pure.extractor_anchor_weight, TieTerm(learned(EXTRACTOR, BASE), given(PRETRAINED, BASE))),
    )


def student_objective(pure: PureLearningSettings) -> Objective:
    """Stage 2: L_CC + eta L_PureCC (PureCC, Eq. 15), with our anchor and replay."""
    originals = {
        "live": learned(STUDENT, BASE),
        "detached": given(STUDENT, BASE),
        "frozen": given(PRETRAINED, BASE),
    }
    fixed = pure.lambda_ != "adaptive"
    complete = learned(STUDENT, COMPLETE)
    terms = [
        ("concept", pure.concept_loss_weight, ConceptTerm(complete)),
        (
            "pure",
            pure.eta,
            PureTerm(
                complete=complete,
                original=originals[pure.v_original],
                target=given(GUIDE, TARGET),
                against=given(GUIDE, CLASS if pure.guidance_against == "class" else NULL),
                scale=FixedScale(pure.lambda_) if fixed else AdaptiveScale(pure.lambda_min),
            ),
        ),
        ("anchor", pure.anchor_weight, TieTerm(learned(STUDENT, BASE), given(PRETRAINED, BASE))),
        (
            "replay",
            pure.replay_weight if pure.replay_images else 0.0,
            TieTerm(learned(STUDENT, REPLAY), given(PRETRAINED, REPLAY)),
        ),
    ]
    if pure.merged:
        terms.append(("extractor", 1.0, ConceptTerm(learned(EXTRACTOR, COMPLETE))))
        tie = TieTerm(learned(EXTRACTOR, BASE), given(PRETRAINED, BASE))
        terms.append(("extractor_anchor", pure.extractor_anchor_weight, tie))
    return Objective(*terms)
