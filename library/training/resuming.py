"""The states of a run: which one it continues from, and what they hold."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from library.config import dataset as dataset_config
from library.config.files import as_tables
from library.config.in_force import with_absolute_paths
from library.errors import ConfigError
from library.files.checkpoint import FINAL, Position, SavedState, StateFolder, load_state
from library.parts.base_weights import contents
from library.parts.learnable import states_of
from library.parts.learned import Learned, Student
from library.predictions import EXTRACTOR, STUDENT
from library.preflight.plan import Plan
from library.saving.finished import MAY_GROW, Finished, finished, no_way_on
from library.terminal import say
from library.training.average import Average
from library.training.stage import Stage

FREE_FROM_A_PATH = frozenset({"max_train_steps", "max_train_epochs", "initial_step", "skip_until_initial_step"})
"""Settings that may differ from a state that is named by its path: how long to train, and from where."""


def shaping(plan: Plan) -> dict[str, Any]:
    """Settings that a resumed run must keep, by name."""
    tables = with_absolute_paths(as_tables(plan.settings, shaping_only=True))  # as in config.toml, which resumes, too
    flat = {name: value for table in tables.values() for name, value in table.items()}
    together = {"processes": plan.processes} if plan.processes > 1 else {}
    if plan.settings.network.base_weights:
        flat["what is in base_weights"] = contents(plan.settings.network, plan.parts.model.depth)
    return {**flat, **dataset_config.as_tables(plan.config), **together}


def state_to_resume(plan: Plan, states: StateFolder) -> SavedState | None:
    """The state that a run continues from, by its settings; None: it starts from scratch.

    Args:
        states: the run's own.

    Raises:
        ConfigError: an unfinished run is in the way, or the state doesn't fit.
        ModelError: every state is damaged.
    """
    saving, newest = plan.settings.saving, states.newest()
    if saving.overwrite:
        return None
    if saving.resume:
        if saving.resume == "auto":
            return _newest(plan, states) or _after_the_end(plan, states)
        return _counted_from(plan.settings.optimizer.initial_step, _read(plan, Path(saving.resume).expanduser()))
    if newest:
        raise ConfigError(
            f"{states.folder.parent} contains an unfinished run ({newest.name}).",
            "Continue it with --resume auto, or start from scratch with --overwrite.",
        )
    return None


def _after_the_end(plan: Plan, states: StateFolder) -> SavedState | None:
    """The last state of a finished run to continue; None if there is no such run, or it is complete."""
    note, steps = _note_of(plan), plan.stage_steps[STUDENT]
    if note is None or note.is_all(plan.settings.output_dir, steps):
        return None
    final = states.folder / FINAL
    if final.is_dir():
        return load_state(final, shaping(plan), MAY_GROW)
    if steps > note.steps:
        raise no_way_on(plan.settings.saving, note, steps)
    return None  # its files are gone, so they are made again


def all_done(plan: Plan, states: StateFolder) -> Finished | None:
    """The finished, complete run that the settings ask for; None if something is left to do."""
    if plan.settings.saving.resume != "auto" or plan.settings.saving.overwrite or states.newest():
        return None
    note = _note_of(plan)
    return note if note and note.is_all(plan.settings.output_dir, plan.stage_steps[STUDENT]) else None


def _note_of(plan: Plan) -> Finished | None:
    return finished(plan.settings.saving, shaping(plan))


def _read(plan: Plan, path: Path) -> SavedState:
    """The state at `path`; if it is damaged, the one before."""
    if not path.is_dir():
        what = f"resume: the folder {path.absolute()} doesn't exist."
        raise ConfigError(what, 'Give the folder of a state, or "auto".')
    found = _newest(plan, StateFolder.of(path), FREE_FROM_A_PATH)
    if found is not None:
        return found
    final = path / FINAL
    return load_state(final if final.is_dir() else path, shaping(plan), FREE_FROM_A_PATH)  # says what is wrong


def _newest(plan: Plan, states: StateFolder, may_differ: frozenset[str] = frozenset()) -> SavedState | None:
    """The newest state; if it is damaged, the one before. None if there is none."""
    found = states.load_newest(shaping(plan), may_differ)
    if not found:
        return None
    state, damaged = found
    for error in damaged:
        done = ", ".join(f"{steps} steps of the {name}" for name, steps in state.position.done.items())
        say(f"WARNING: {error.what} Continuing from the state before it, after {done}.")
    return state


def _counted_from(step: int | None, state: SavedState) -> SavedState:
    """The state, with the student's steps counted from `step`, as in sd-scripts; None: from its own count."""
    if step is None or STUDENT not in state.tree["stages"]:
        return state
    stage = {**state.tree["stages"][STUDENT], "done": step}
    position = Position({**state.position.done, STUDENT: step})
    return replace(state, position=position, tree={**state.tree, "stages": {STUDENT: stage}})


def state_of(plan: Plan, stage: Stage, learned: Learned, average: Average) -> SavedState:
    """Everything that the run needs to continue after the last step of `stage`.

    Args:
        learned: what the stage trains.
        average: of the student.
    """
    done = dict.fromkeys(plan.stage_steps, 0)
    weights: dict[str, Any] = {}
    for name in itertools.takewhile(lambda name: name != stage.name, plan.stage_steps):
        done[name] = plan.stage_steps[name]
    if isinstance(learned, Student) and EXTRACTOR in plan.stage_steps:
        weights |= states_of(learned.extractor.learnables)
    done[stage.name] = stage.done
    weights |= states_of(learned.learnables)
    tree: dict[str, Any] = {"stages": {stage.name: stage.state()}, "weights": weights}
    if stage.name == STUDENT:
        tree["average"] = average.state()
    return SavedState(Position(done), shaping(plan), tree)
