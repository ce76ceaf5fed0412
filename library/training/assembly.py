"""Assembles the stages of a run from what was prepared for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from library.adapters.linear import LowRank
from library.adapters.network import limit_norms
from library.data.latents import Latents
from library.parts.assembled import assemble
from library.parts.branching import makes_fused_steps, penalties_of
from library.parts.context import Context
from library.parts.learnable import Learnable
from library.parts.learned import Learned
from library.parts.parts import Attached
from library.predictions import STUDENT
from library.preflight.plan import Plan, stage_rates
from library.prepare.replay import Replay
from library.training.processes import Processes
from library.training.scenes import SceneMaker, Sources
from library.training.stage import Stage
from library.training.update import Learner, make_update


@dataclass(frozen=True)
class Ingredients:
    """What the stages of a run are built from.

    Args:
        parts: of the plan, with the transformer.
        replay, fisher, context: see the modules of these names; None if not needed.
    """

    plan: Plan
    parts: Attached
    processes: Processes
    latents: Latents
    context: Context
    replay: Replay | None = None
    fisher: Mapping[str, Tensor] | None = None

    @property
    def sources(self) -> Sources:
        """What the scenes of every stage are drawn from."""
        parts, context, settings = self.parts, self.context, self.parts.settings
        return Sources(
            seed=settings.optimizer.seed,
            noise=settings.noise,
            order=self.plan.order,
            latents=self.latents,
            texts=parts.texts,
            replay=self.replay,
            processes=self.processes,
            without_encoders=parts.model.dropout_rates(settings.data),
            in_context=partial(context.add_to, parts=parts) if context.vectors else None,
        )


def make_stage(learned: Learned, made_of: Ingredients) -> Stage:
    """The extractor's or the student's stage before its first step; what does not learn in it is frozen."""
    plan, settings, parts, name = made_of.plan, made_of.parts.settings, made_of.parts, learned.stage
    made = assemble(learned, parts, plan.has_reg, made_of.context)
    initial, most = settings.optimizer.initial_step or 0, settings.network.scale_weight_norms
    low_ranks = [one for learnable in made.learnables for one in learnable.modules.values() if isinstance(one, LowRank)]
    update = make_update(
        learners_of(made.learnables, stage_rates(settings)[name]),
        settings.optimizer,
        penalties_of(name, settings, parts, made_of.fisher),
        device=parts.model.device,
        fp16=settings.model.mixed_precision == "fp16",
        fused=name == STUDENT and makes_fused_steps(settings),
    )
    return Stage(
        name,
        plan.stage_steps[name],
        made.objective,
        made.branches,
        SceneMaker(name, made.prompts, made_of.sources),
        update,
        settings.optimizer,
        first=initial if name == STUDENT else 0,
        data_anew=not settings.optimizer.skip_until_initial_step,
        after_step=partial(limit_norms, low_ranks, most) if most and low_ranks else dict,
    )


def learners_of(learnables: Iterable[Learnable], rates: Mapping[str, float]) -> list[Learner]:
    """The optimizer's groups: each has all weights with one learning rate.

    Args:
        rates: of the stage, by name.
    """
    learning: dict[str, list[nn.Parameter]] = {rate: [] for rate in rates}
    for one in learnables:
        for name, weight in one.weights.items():
            learning[one.rate_of(name)].append(weight)
    return [Learner(rate, learning[rate], rates[rate]) for rate in rates]
