"""Computes or reads from the cache what is needed before anything learns: texts, latents, and the inputs of losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from library.data.latents import Latents
from library.data.same_pictures import note_pictures
from library.models.interface import Progress
from library.parts.branching import needs_fisher
from library.parts.context import Context
from library.parts.parts import Attached
from library.preflight.plan import Plan
from library.prepare.context_vectors import learn_context
from library.prepare.fisher import fisher_of
from library.prepare.replay import Replay, draw_replay
from library.terminal import say
from library.training.listeners import Listener, Listeners
from library.training.processes import Processes


@dataclass(frozen=True)
class Prepared:
    """What the stages train with.

    Args:
        parts: with the transformer.
        context, replay, fisher: see the modules of these names; no vectors and None if no loss needs them.
    """

    parts: Attached
    context: Context
    replay: Replay | None
    fisher: Mapping[str, Tensor] | None


def prepare(
    plan: Plan,
    latents: Latents,
    processes: Processes,
    listeners: Listeners,
    progress: Callable[[str], Progress],
    resumed: bool,
) -> Prepared:
    """Computes text and latents once, then releases the encoders and loads the transformer.

    Args:
        latents: of the plan's pictures; filled here.
        progress: shows a bar with this name for slow work.
        resumed: the run continues another that may have had other pictures.
    """
    opened, settings = plan.parts, plan.settings
    with listeners.phase("text"), processes.main_first():
        opened.texts.prepare(plan.texts(), progress("text"))
    with listeners.phase("latents"), processes.main_first():
        latents.prepare(plan.pictures, progress("latents"))
    with processes.main_first():
        if processes.main:
            note_pictures(settings.output_dir, plan.pictures, latents, resumed)
    opened.model.release_vae()
    with listeners.phase("loading"):
        parts = opened.attach()
    for notice in opened.model.notices:
        say(notice)
    replay: Replay | None = None
    fisher: Mapping[str, Tensor] | None = None
    context = Context()
    if plan.uses_replay:
        with listeners.phase("replayed pictures"), processes.main_first():
            replay = draw_replay(parts, plan.replay_size, progress("replayed pictures"))
        if needs_fisher(settings):
            with listeners.phase("Fisher information"), processes.main_first():
                fisher = fisher_of(parts, replay, progress("Fisher information"))
    if settings.context.context_vectors:
        with listeners.phase("context"), processes.main_first():
            context = learn_context(parts, latents, plan.shown, plan.batch_size, progress("context"))
        listeners.tell(Listener.context_learned, context.seconds)
    listeners.tell(Listener.prepared, parts)
    return Prepared(parts, context, replay, fisher)
