"""The states of a run: which one it goes on from, and what is put into them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from library.checkpoint import Position, SavedState, StateFolder, load_state
from library.config import dataset as dataset_config
from library.config.files import as_tables
from library.errors import ConfigError
from library.objectives import EXTRACTOR, STUDENT
from library.report.progress import say
from library.training.branching import extractor_adapters, learning_in
from library.training.plan import Plan
from library.training.stage import Stage
from library.training.weights_state import weights_of


def shaping(plan: Plan) -> dict[str, Any]:
    """Settings that a resumed run must keep, by name."""
    tables = as_tables(plan.settings, shaping_only=True)
    flat = {name: value for table in tables.values() for name, value in table.items()}
    together = {"processes": plan.processes} if plan.processes > 1 else {}
    return {**flat, **dataset_config.as_tables(plan.config), **together}


def state_to_resume(plan: Plan, states: StateFolder) -> SavedState | None:
    """The state that a run goes on from, as its settings say; None: it begins anew.

    Args:
        states: the run's own.

    Raises:
        ConfigError: an unfinished run is in the way, or the state does not fit.
        ModelError: every state is damaged.
    """
    saving, newest = plan.settings.saving, states.newest()
    if saving.overwrite:
        states.remove()
        return None
    if saving.resume:
        return _read(plan, states, None if saving.resume == "auto" else Path(saving.resume).expanduser())
    if newest:
        raise ConfigError(
            f"{states.folder.parent} holds an unfinished run ({newest.name}).",
            "Go on with it by --resume auto, or start anew with --overwrite.",
        )
    return None


def _read(plan: Plan, states: StateFolder, path: Path | None) -> SavedState | None:
    """The state at `path`, or the newest one; where it is damaged, the one before."""
    if path is not None:
        states = StateFolder.of(path)
        if not states.all():
            return load_state(path, shaping(plan))  # says what is wrong with it
    found = states.load_newest(shaping(plan))
    if not found:
        return None
    state, damaged = found
    for error in damaged:
        done = ", ".join(f"{steps} steps of the {name}" for name, steps in state.position.done.items())
        say(f"WARNING: {error.what} Going on from the state before it, after {done}.")
    return state


def state_of(plan: Plan, stage: Stage) -> SavedState:
    """All that the run needs to go on after the last step of `stage`."""
    parts, done = plan.parts, dict.fromkeys(plan.stage_steps, 0)
    for name in itertools.takewhile(lambda name: name != stage.name, plan.stage_steps):
        done[name] = plan.stage_steps[name]
    done[stage.name] = stage.done
    tree: dict[str, Any] = {"stages": {stage.name: stage.state()}}
    if not plan.settings.pure_learning.extractor:
        tree[EXTRACTOR] = weights_of(
            parts.network, extractor_adapters(plan.settings, parts), parts.extractor_embeddings
        )
    if stage.name == STUDENT:
        tree[STUDENT] = weights_of(
            parts.network, learning_in(STUDENT, plan.settings, parts)[0][:1], parts.student_embeddings, parts.words
        )
    return SavedState(Position(done), shaping(plan), tree)
