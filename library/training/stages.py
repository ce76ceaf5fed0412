"""Puts the stages of a run together, from what was prepared for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from library.config.settings import Settings
from library.data.latents import Latents
from library.objectives import STUDENT
from library.training.branching import (
    freeze_all_but,
    learning_in,
    makes_fused_steps,
    objective_of,
    penalties_of,
    scheduler_of,
)
from library.training.context import Context
from library.training.parts import STUDENT_ADAPTER, Parts, learns_words
from library.training.plan import Plan, stage_rates
from library.training.processes import Processes
from library.training.scenes import Replay, SceneMaker, Sources
from library.training.stage import Learner, Stage


@dataclass(frozen=True)
class Ingredients:
    """What the stages of a run are made of.

    Args:
        settings: those in force, which may have changed since the plan.
        replay, fisher, context: see the modules of these names; None if nobody asks for them.
    """

    plan: Plan
    settings: Settings
    processes: Processes
    latents: Latents
    context: Context
    replay: Replay | None = None
    fisher: Mapping[str, Tensor] | None = None

    @property
    def sources(self) -> Sources:
        """What the scenes of every stage are drawn from."""
        parts, context, data = self.plan.parts, self.context, self.settings.data
        return Sources(
            seed=self.settings.optimizer.seed,
            noise=self.settings.noise,
            order=self.plan.order,
            latents=self.latents,
            texts=parts.texts,
            replay=self.replay,
            processes=self.processes,
            without_encoders=(data.clip_l_dropout_rate, data.clip_g_dropout_rate, data.t5_dropout_rate),
            in_context=partial(context.add_to, parts=parts) if context.vectors else None,
        )


def make_stage(name: str, made_of: Ingredients) -> Stage:
    """A stage before its first step; what does not learn in it is frozen."""
    plan, settings, parts = made_of.plan, made_of.settings, made_of.plan.parts
    objective, learners = objective_of(name, settings, plan.has_reg), learners_of(name, settings, parts)
    wanted = {reading.prediction.prompt for reading in objective.readings}
    initial, most = settings.optimizer.initial_step or 0, settings.network.scale_weight_norms
    adapters, _ = learning_in(name, settings, parts)
    dropout = settings.concept_embeddings.embedding_dropout if name == STUDENT else 0.0
    return Stage(
        name,
        plan.stage_steps[name],
        objective,
        scheduler_of(objective, settings, parts, made_of.context),
        SceneMaker(name, wanted, made_of.sources, dropout),
        learners,
        settings.optimizer,
        first=initial if name == STUDENT else 0,
        data_anew=not settings.optimizer.skip_until_initial_step,
        fp16=settings.model.mixed_precision == "fp16",
        penalties=penalties_of(name, settings, parts, made_of.fisher),
        fused=name == STUDENT and makes_fused_steps(settings),
        after_step=partial(parts.network.limit_norms, adapters, most) if most and adapters else dict,
    )


def learners_of(name: str, settings: Settings, parts: Parts) -> list[Learner]:
    """The weights that learn in a stage; all others are frozen."""
    rates = stage_rates(settings)[name]
    adapters, embeddings = learning_in(name, settings, parts)
    freeze_all_but(adapters, embeddings, parts)
    words = list(parts.words.parameters()) if parts.words and name == STUDENT else []
    learning = {"lr": [], "embedding_lr": [one.moved for one in embeddings] + words, "up_lr": []}
    for adapter in adapters:
        for side, weight in parts.network.named_parameters(adapter):
            learning["up_lr" if side == "up" and "up_lr" in rates else "lr"].append(weight)
    return [Learner(rate, learning[rate], rates[rate]) for rate in rates]


def student_weights(settings: Settings, parts: Parts) -> list[nn.Parameter]:
    """The weights that make the student, as far as they learn: LoRA or whole weights, vectors, words."""
    adapters = [] if learns_words(settings) else [STUDENT_ADAPTER]
    weights = [weight for adapter in adapters for weight in parts.network.parameters(adapter)]
    if settings.concept_embeddings.student_embeddings in ("own", "fresh"):
        weights += [one.vectors for one in parts.student_embeddings.values()]
    return weights + (list(parts.words.parameters()) if parts.words else [])
