"""The state of a stopped run, from which it continues as if nothing had happened. Safetensors and JSON, not pickle.

A state is a folder that appears whole: `state.json` and `tensors.safetensors`, each checked by its hash when it is
read. The previous one is kept, too, in case a disk damages the newest. Everything random in a run follows from its
seed and the number of the step, so no generator has to be saved.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from library.errors import ConfigError, ModelError, all_of
from library.files import fingerprint
from library.files.atomic import TEMPORARY, move, remove, remove_folder, write_folder
from library.files.tensor_storage import save_tensors

FORMAT = 4
TENSORS, STATE = "tensors.safetensors", "state.json"
NAME = re.compile(r"step-\d{8}")
"""The name of a state's folder."""
FINAL = "final"
"""The name of the folder that a finished run leaves; no unfinished run has one."""


def flatten(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """A nested state as JSON; its tensors go into `tensors` under their path."""
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
    raise TypeError(f"{path} is a {type(tree).__name__}, which can't be saved in a state.")


def unflatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `flatten`."""
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
    """The progress of a run: the finished steps of each stage by name, in order."""

    done: dict[str, int]


@dataclass(frozen=True)
class SavedState:
    """A state as it was saved."""

    position: Position
    settings: dict[str, Any]
    """The settings that shape training; they must be the same when the run continues."""
    tree: dict[str, Any]


class StateFolder:
    """Where a run keeps its states, the newest two: `OUTPUT_NAME-state`.

    Args:
        folder: it need not exist.
        last: name of the state after which none counts.
    """

    def __init__(self, folder: Path, last: str | None = None) -> None:
        self.folder = folder
        self.last = last

    @classmethod
    def of(cls, path: Path) -> StateFolder:
        """The states up to that at `path`, which is one of them or the folder of all; of a done run, its last."""
        return cls(path.parent, path.name) if NAME.fullmatch(path.name) else cls(path)

    def save(self, state: SavedState) -> Path:
        """Saves a state and returns its folder; then removes all but the previous one, and what was left half written.

        Raises:
            StorageError: the disk is full or read-only; existing states stay.
        """
        new = self.folder / f"step-{sum(state.position.done.values()):08d}"
        write_state(new, state)
        kept = [new, *[path for path in self.all() if path.name < new.name][-1:]]
        for other in self.folder.iterdir():
            if (
                other.is_dir()
                and other not in kept
                and (NAME.fullmatch(other.name) or other.name.startswith(TEMPORARY))
            ):
                remove(other)
        return new

    def finish(self, keep: bool) -> None:
        """Ends a run: removes its states except the newest if that is kept for more training."""
        newest, final = self.newest(), self.folder / FINAL
        if not keep or newest is None:
            remove(self.folder)
            return
        remove_folder(final)
        move(newest, final)
        for other in self.all():
            remove(other)

    def newest(self) -> Path | None:
        """The newest state, if there is one."""
        states = self.all()
        return states[-1] if states else None

    def load_newest(
        self, settings: dict[str, Any], may_differ: Iterable[str] = ()
    ) -> tuple[SavedState, list[ModelError]] | None:
        """The newest readable state, with what is wrong with later ones; None if there is none.

        Args:
            settings, may_differ: see `load_state`.

        Raises:
            ModelError: there are some, and all are damaged.
            ConfigError: see `load_state`.
        """
        damaged: list[ModelError] = []
        for folder in reversed(self.all()):
            try:
                return load_state(folder, settings, may_differ), damaged
            except ModelError as error:
                damaged.append(error)
        if damaged:
            raise all_of(damaged)
        return None

    def remove(self) -> None:
        """Removes all states.

        Raises:
            InUse: another program has a file of one open; all of them are there.
        """
        remove_folder(self.folder)

    def all(self) -> list[Path]:
        """All states, oldest first."""
        if not self.folder.is_dir():
            return []
        names = [path for path in self.folder.iterdir() if NAME.fullmatch(path.name)]
        return sorted(path for path in names if self.last is None or path.name <= self.last)


def write_state(folder: Path, state: SavedState) -> None:
    """Writes a state as a folder that appears whole.

    Raises:
        StorageError: the disk is full or read-only.
    """
    tensors: dict[str, Tensor] = {}
    tree = flatten(state.tree, tensors)

    def fill(path: Path) -> None:
        save_tensors(path / TENSORS, tensors)
        about = {"format": FORMAT, "done": state.position.done, "settings": state.settings, "tree": tree}
        about["tensors"] = fingerprint.of_file(path / TENSORS)
        about = json.loads(json.dumps(about))
        (path / STATE).write_text(json.dumps({"state": about, "sha256": fingerprint.of_key(about)}), "utf-8")

    write_folder(folder, fill)


def load_state(folder: Path, settings: dict[str, Any], may_differ: Iterable[str] = ()) -> SavedState:
    """Reads a state.

    Args:
        settings: those of this run that shape training.
        may_differ: those that may differ in the state.

    Raises:
        ModelError: not a state, or damaged.
        ConfigError: a setting that shapes training has changed since.
    """
    try:
        state = _read(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise ModelError(
            f"resume: {folder} is not a readable state: {error}.", "Start from scratch with --overwrite."
        ) from error
    check_same(state.settings, settings, may_differ)
    return state


def check_same(before: dict[str, Any], settings: dict[str, Any], may_differ: Iterable[str] = ()) -> None:
    """Checks that a run continues with the settings that have shaped it so far.

    Args:
        before: those that were saved.
        settings, may_differ: see `load_state`.

    Raises:
        ConfigError: one has changed since.
    """
    now = json.loads(json.dumps(settings))
    for name in sorted((set(now) | set(before)) - set(may_differ)):
        if now.get(name) != before.get(name):
            raise ConfigError(
                f"resume: {name} was {before.get(name)!r} when the run stopped and is {now.get(name)!r} now.",
                "Change it back to continue, or start from scratch with --overwrite.",
            )


def _read(folder: Path) -> SavedState:
    """A state whose hashes are right; ValueError if they are not."""
    written = json.loads((folder / STATE).read_text(encoding="utf-8"))
    about = written["state"]
    if written["sha256"] != fingerprint.of_key(about):
        raise ValueError(f"{STATE} is damaged")
    if about["format"] != FORMAT:
        raise ValueError(f"another version wrote it (format {about['format']}, here {FORMAT})")
    content = (folder / TENSORS).read_bytes()  # not mapped: Windows could not remove the folder then
    if about["tensors"] != fingerprint.of_bytes(content):
        raise ValueError(f"{TENSORS} is damaged")
    return SavedState(Position(about["done"]), about["settings"], unflatten(about["tree"], load(content)))
