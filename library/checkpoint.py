"""The state of a run that was stopped, from which it goes on as if it never had been. Safetensors and JSON, no pickle.

A state is a folder that appears whole: `state.json` and `tensors.safetensors`. Everything random in a run follows from
its seed and the number of the step, so no generator has to be saved.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from library.atomic import write_folder
from library.errors import ConfigError, ModelError

FORMAT = 1


def flatten(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """A nested state as JSON can hold it; its tensors go into `tensors` under their path."""
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(tree, dict):
        return {"dict": [[key, flatten(value, tensors, f"{path}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        items = [flatten(value, tensors, f"{path}/{index}") for index, value in enumerate(tree)]
        return {"tuple" if isinstance(tree, tuple) else "list": items}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return {"value": tree}
    raise TypeError(f"{path} is a {type(tree).__name__}, which a state can't hold.")


def unflatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """What `flatten` was given."""
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: unflatten(entry, tensors) for key, entry in value}
    if kind == "value":
        return value
    items = [unflatten(entry, tensors) for entry in value]
    return tuple(items) if kind == "tuple" else items


@dataclass(frozen=True)
class Position:
    """How far a run is: steps done of each stage, by the stage's name, in their order."""

    done: dict[str, int]


@dataclass(frozen=True)
class SavedState:
    """A state as it was saved."""

    position: Position
    settings: dict[str, Any]
    """The settings that shape training, to be the same when the run goes on."""
    tree: dict[str, Any]


class StateFolder:
    """Where a run keeps its state: `OUTPUT_NAME-state`, holding the newest one.

    Args:
        folder: it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: SavedState) -> Path:
        """Saves a state and returns its folder; once it is there, older ones go, and what was left half written."""
        tensors: dict[str, Tensor] = {}
        tree = flatten(state.tree, tensors)
        total = sum(state.position.done.values())

        def fill(path: Path) -> None:
            save_file(tensors, path / "tensors.safetensors")
            about = {"format": FORMAT, "done": state.position.done, "settings": state.settings, "tree": tree}
            (path / "state.json").write_text(json.dumps(about), encoding="utf-8")

        new = self.folder / f"step-{total:08d}"
        write_folder(new, fill)
        for other in self.folder.iterdir():
            if other != new:
                shutil.rmtree(other, ignore_errors=True)
        return new

    def newest(self) -> Path | None:
        """The newest state, if there is one."""
        states = self._states()
        return states[-1] if states else None

    def remove(self) -> None:
        """Removes all states."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _states(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if re.fullmatch(r"step-\d{8}", path.name))


def load_state(folder: Path, settings: dict[str, Any]) -> SavedState:
    """Reads a state.

    Args:
        settings: those of this run that shape training.

    Raises:
        ModelError: not a state, or damaged.
        ConfigError: a setting that shapes training has changed since.
    """
    try:
        about = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "tensors.safetensors")
        state = SavedState(Position(about["done"]), about["settings"], unflatten(about["tree"], tensors))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"resume: {folder} is not a state that can be read: {error}.", "Start anew with --overwrite."
        ) from error
    now = json.loads(json.dumps(settings))
    for name in sorted(set(now) | set(state.settings)):
        if now.get(name) != state.settings.get(name):
            before = state.settings.get(name)
            raise ConfigError(
                f"resume: {name} was {before!r} when the run was stopped and is {now.get(name)!r} now.",
                "Set it back to go on, or start anew with --overwrite.",
            )
    return state
