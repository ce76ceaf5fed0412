"""What a stage learns: a sum of terms, each of which declares the predictions it reads.

A term is one loss of one equation. This module decides from the settings, once, which terms a run has, and which of
them a batch has if they take turns. The training step only adds them up. Other methods are other sums of terms over the
same step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from library.config.loss_settings import LossSettings
from library.config.settings import PureLearningSettings, Settings
from library.flow import SQUARED, ConceptError, mse
from library.lambda_star_loss import FixedScale, concept_guidance, lambda_star, measure_guidance, pure_loss
from library.predictions import (
    BASE,
    CLASS,
    COMPLETE,
    EXTRACTOR,
    GUIDE,
    NULL,
    PRETRAINED,
    REPLAY,
    REPLAY_COMPLETE,
    REPLAYED,
    STUDENT,
    TARGET,
    WORD,
    Reading,
    Velocities,
    given,
    learned,
)
from library.turns import Growing, Turns, Weight, at


class Term(Protocol):
    """One loss."""

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The predictions that it reads."""

    def __call__(self, v: Velocities) -> Tensor:
        """The loss of each image, (B,), float32."""


@runtime_checkable
class Measured(Protocol):
    """A term that measures more than its loss."""

    def measure(self, v: Velocities) -> dict[str, Tensor]:
        """Values of each image, (B,), for the log; no gradient."""


@dataclass(frozen=True)
class ConceptTerm:
    """L_CC = ||(x_1 - x_0) - v(x_t | y_complete)||^2: plain flow matching on the pictures (PureCC, Eq. 3).

    Masks exclude places from it. On regularisation pictures, or on replayed pictures with their prompts, it is
    DreamBooth's prior preservation.

    Args:
        error: how an error counts; the paper's is squared.
    """

    complete: Reading
    error: ConceptError = SQUARED

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self.complete,)

    def __call__(self, v: Velocities) -> Tensor:
        truth = v.truth(self.complete)
        return self.error(v[self.complete], truth.target, truth.sigma, truth.emphasis)


@dataclass(frozen=True)
class PureTerm:
    """L_PureCC: the student should equal the original plus scaled concept guidance (PureCC, Eq. 8 to 14).

    Regularisation pictures and dropped captions have no concept to guide to, so it is 0 there.
    """

    complete: Reading
    original: Reading
    target: Reading
    against: Reading
    scale: Callable[[Tensor, Tensor, Tensor], Tensor]

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self.complete, self.original, self.target, self.against)

    def guidance(self, v: Velocities) -> Tensor:
        """R(tar), frozen, (B, C, H, W)."""
        return concept_guidance(v[self.target], v[self.against])

    def __call__(self, v: Velocities) -> Tensor:
        r_tar = self.guidance(v)
        lam = self.scale(v[self.complete], v[self.original], r_tar)
        loss = pure_loss(v[self.complete], v[self.original], lam, r_tar)
        shown = v.truth(self.complete).shows_concept
        return loss if shown is None else torch.where(shown, loss, 0.0)

    def measure(self, v: Velocities) -> dict[str, Tensor]:
        """lambda*, cosine and lengths of each image, (B,); NaN where the prompt does not name the concept."""
        measures = measure_guidance(v[self.complete], v[self.original], self.guidance(v))
        shown = v.truth(self.complete).shows_concept
        if shown is None:
            return measures
        return {name: torch.where(shown, values, torch.nan) for name, values in measures.items()}


@dataclass(frozen=True)
class TieTerm:
    """||v_learned(y) - v_pretrained(y)||^2: keeps a branch at the pretrained model's prediction for one prompt (ours).

    On the pretrained model's own picture and prompt it is replay.
    """

    tied: Reading
    to: Reading

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self.tied, self.to)

    def __call__(self, v: Velocities) -> Tensor:
        return mse(v[self.tied], v[self.to])


@dataclass(frozen=True)
class AnchorTerm(TieTerm):
    """||v_learned(y_base) - v_pretrained(y_base)||^2 on reference pictures of subjects (ours).

    It does not apply to styles. Classifier-free guidance multiplies what [V] adds to the empty prompt's velocity, and
    the anchor keeps all of the concept out of that velocity. This makes a subject clearer, but a style several times
    too strong.
    """

    def __call__(self, v: Velocities) -> Tensor:
        loss = super().__call__(v)
        anchored = v.truth(self.tied).anchored
        return loss if anchored is None else torch.where(anchored, loss, 0.0)


@dataclass(frozen=True)
class WordTerm(TieTerm):
    """||v_word(y) - v_student(y)||^2 + states * mean_l ||(h_l - e_l) / s_l||^2, for a prompt with [V] (ours).

    It teaches the student without its vectors, which is the LoRA and the trigger word, what the vectors have learned:
    to predict the same velocity, and to make the trigger's hidden states h_l in every block l what the vectors e_l are
    there. s_l is the size of the vectors' start. The states say in each block what to do, the velocity only at the end.

    Args:
        states: weight of the second part.
    """

    states: float

    def __call__(self, v: Velocities) -> Tensor:
        return super().__call__(v) + self.states * v.distance(self.tied)


@dataclass(frozen=True)
class SurroundingsTerm(TieTerm):
    """||(1 - m)(v_learned(y with [V]) - v_pretrained(y))||^2 on replayed pictures, m where their class is (ours).

    It keeps what [V] adds to a picture of the class inside the class. Pictures without the class have m = 1 and cost
    nothing.
    """

    def __call__(self, v: Velocities) -> Tensor:
        return mse(v[self.tied], v[self.to], v.truth(self.tied).outside)


@dataclass(frozen=True)
class Losses:
    """The losses of one batch."""

    total: Tensor
    """The total to minimise, ()."""
    parts: dict[str, Tensor]
    """Each term's loss of each image before its weight, (B,), no gradient."""
    measures: dict[str, Tensor] = field(default_factory=dict)
    """lambda*, cosine and lengths of each image, (B,)."""


class Objective:
    """A weighted sum of terms.

    Args:
        terms: (name, weight, term). Terms of weight 0 are left out, so their predictions are never made.
        turns: which of them take turns; None: every batch has all terms.
    """

    def __init__(self, *terms: tuple[str, Weight, Term], turns: Turns | None = None) -> None:
        self.terms = tuple((name, weight, term) for name, weight, term in terms if at(weight, 1.0) > 0)
        self.turns = turns
        self._turning = [name for name, _, _ in self.terms if turns and name in turns.names]

    @property
    def readings(self) -> frozenset[Reading]:
        """Everything that the terms read."""
        return frozenset(reading for _, _, term in self.terms for reading in term.readings)

    @property
    def replays(self) -> bool:
        """Whether a term looks at replayed pictures."""
        return any(reading.prediction.prompt in REPLAYED for reading in self.readings)

    @property
    def kinds(self) -> tuple[Objective, ...]:
        """The objectives of batches at the end of the stage: one for each term that takes turns, equally often."""
        return tuple(self._with(name, 1.0) for name in self._turning or (None,))

    def in_batch(self, number: int, progress: float) -> Objective:
        """The objective of one batch.

        Args:
            number: of the batch in its stage.
            progress: how much of the stage is done, 0 to 1.
        """
        chosen = self.turns.of_batch(number, self._turning) if self.turns and self._turning else None
        return self._with(chosen, progress)

    def _with(self, chosen: str | None, progress: float) -> Objective:
        """The terms of every batch, and the one whose turn it is, weighted for its whole round."""
        now, count = [(name, at(weight, progress), term) for name, weight, term in self.terms], len(self._turning)
        turn = [(name, count * weight, term) for name, weight, term in now if name == chosen]
        return Objective(*(one for one in now if one[0] not in self._turning), *turn)

    def __call__(self, v: Velocities) -> Losses:
        parts = {name: term(v) for name, _, term in self.terms}
        first, *others = (at(weight, 1.0) * parts[name].mean() for name, weight, _ in self.terms)
        total = sum(others, first)
        measures = [term.measure(v) for name, _, term in self.terms if name == "pure" and isinstance(term, Measured)]
        return Losses(total, {name: loss.detach() for name, loss in parts.items()}, *measures)


def concept_error(loss: LossSettings) -> ConceptError:
    """How errors count in the concept loss, from the settings."""
    return ConceptError(loss.loss_type, loss.huber_schedule, loss.huber_c, loss.huber_scale)


TEACHING = frozenset({"concept", "extractor"})
"""The terms of every batch: what to learn. All others stop it from learning more than that, and may take turns."""


def extractor_objective(settings: Settings) -> Objective:
    """Stage 1: the extractor learns the concept; our ties stop it from learning the concept under other names."""
    pure, error = settings.pure_learning, concept_error(settings.loss)
    return _with_ties(
        settings,
        EXTRACTOR,
        ("concept", 1.0, ConceptTerm(learned(EXTRACTOR, COMPLETE), error)),
        ("anchor", pure.extractor_anchor_weight, TieTerm(learned(EXTRACTOR, BASE), given(PRETRAINED, BASE))),
        (
            "replay",
            pure.extractor_replay_weight if pure.replay_images else 0.0,
            TieTerm(learned(EXTRACTOR, REPLAY), given(PRETRAINED, REPLAY)),
        ),
    )


def student_objective(settings: Settings, has_reg: bool = False) -> Objective:
    """Stage 2: L_CC + eta L_PureCC (PureCC, Eq. 15), our anchor and replay, and the word learns what vectors do.

    Args:
        has_reg: there are regularisation pictures, so prior preservation uses them, not the replayed pictures.
    """
    pure, error = settings.pure_learning, concept_error(settings.loss)
    prior = 0.0 if has_reg or pure.prior_loss_weight is None else pure.prior_loss_weight
    replayed, on_replayed = (1.0 if pure.replay_images else 0.0), REPLAY_COMPLETE
    word = pure.word_weight if settings.teaches_word else 0.0

    def word_tie(prompt: str) -> WordTerm:
        return WordTerm(learned(WORD, prompt), given(STUDENT, prompt), pure.word_states_weight)

    terms: list[tuple[str, Weight, Term]] = [
        ("concept", pure.concept_loss_weight, ConceptTerm(learned(STUDENT, COMPLETE), error)),
        ("pure", pure.eta, _pure_term(pure)),
        ("anchor", pure.anchor_weight, AnchorTerm(learned(STUDENT, BASE), given(PRETRAINED, BASE))),
        ("replay", replayed * pure.replay_weight, TieTerm(learned(STUDENT, REPLAY), given(PRETRAINED, REPLAY))),
        (
            "surroundings",
            replayed * pure.surroundings_weight,
            SurroundingsTerm(learned(STUDENT, on_replayed), given(PRETRAINED, REPLAY)),
        ),
        ("prior", replayed * prior, ConceptTerm(learned(STUDENT, REPLAY), error)),
        ("word", Growing(word), word_tie(COMPLETE)),
        ("word_replayed", Growing(replayed * word), word_tie(on_replayed)),
    ]
    if pure.merged:
        terms.append(("extractor", 1.0, ConceptTerm(learned(EXTRACTOR, COMPLETE), error)))
        tie = TieTerm(learned(EXTRACTOR, BASE), given(PRETRAINED, BASE))
        terms.append(("extractor_anchor", pure.extractor_anchor_weight, tie))
    return _with_ties(settings, STUDENT, *terms)


def _with_ties(settings: Settings, stage: str, *terms: tuple[str, Weight, Term]) -> Objective:
    """The sum of a stage's terms; ties take turns if the settings say so."""
    if settings.pure_learning.ties == "all":
        return Objective(*terms)
    ties = frozenset(name for name, _, _ in terms) - TEACHING
    return Objective(*terms, turns=Turns(ties, settings.optimizer.seed, stage))


def _pure_term(pure: PureLearningSettings) -> PureTerm:
    originals = {
        "live": learned(STUDENT, BASE),
        "detached": given(STUDENT, BASE),
        "frozen": given(PRETRAINED, BASE),
    }
    against = {"class": CLASS, "null": NULL}
    lambda_ = pure.lambda_
    return PureTerm(
        complete=learned(STUDENT, COMPLETE),
        original=originals[pure.v_original],
        target=given(GUIDE, TARGET),
        against=given(GUIDE, against[pure.guidance_against]),
        scale=lambda_star if isinstance(lambda_, str) else FixedScale(lambda_),
    )
