"""What UIs make of a LoRA file: the layers that each changes, by what, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Patch:
    """A UI's change of one diffusers layer, by keys of the file: delta W = scale * up[rows] @ down.

    Args:
        turned: the halves of the result are exchanged.
    """

    up: str
    down: str
    scale: float
    rows: tuple[int, int] | None = None
    turned: bool = False


@dataclass
class UiReading:
    """What a UI makes of a file.

    Args:
        patches: by diffusers layer; several are added up.
        matched: keys of the file that it uses.
        unmatched: those that it does not.
        refused: why it loads nothing at all.
    """

    patches: dict[str, tuple[Patch, ...]] = field(default_factory=dict)
    matched: set[str] = field(default_factory=set)
    unmatched: tuple[str, ...] = ()
    refused: str | None = None

    def add(self, layer: str, patch: Patch) -> None:
        """One change more for a layer."""
        self.patches[layer] = (*self.patches.get(layer, ()), patch)

    def refuse(self, why: str) -> UiReading:
        """The same reading, of which nothing is left."""
        return UiReading({}, set(), self.unmatched, why)


File = Mapping[str, Tensor]


@dataclass(frozen=True)
class Loaders:
    """The UIs that load LoRA files for a family of models.

    Args:
        rules: by the name of the UI, what it makes of a file with its metadata, for a model of a shape.
        shape_of: the shape of a transformer, as the rules want it.
        promised: the UIs that each layout is written for.
        where: the folder in which each of these looks for a LoRA, or what to write.
        also: the UIs that a layout is written for as well, for a model of a shape.
    """

    rules: Mapping[str, Callable[[File, Mapping[str, str], Any], UiReading]]
    shape_of: Callable[[nn.Module], Any]
    promised: Mapping[str, Sequence[str]]
    where: Mapping[str, str]
    also: Callable[[str, Any], Sequence[str]] = lambda layout, shape: ()

    def readings(self, file: File, metadata: Mapping[str, str], shape: Any) -> dict[str, UiReading]:
        """What each UI makes of a file."""
        return {ui: rule(file, metadata, shape) for ui, rule in self.rules.items()}
