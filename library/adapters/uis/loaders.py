"""How UIs read a LoRA file: which layers each one changes, by what, and which keys it ignores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Patch:
    """A UI's change of one diffusers layer, by keys of the file: delta W = scale * up[rows] @ down.

    Args:
        turned: the two halves of the result are swapped.
    """

    up: str
    down: str
    scale: float
    rows: tuple[int, int] | None = None
    turned: bool = False


@dataclass
class UiReading:
    """How a UI reads a file.

    Args:
        patches: by diffusers layer; several add up.
        matched: keys of the file that it uses.
        unmatched: keys that it does not use.
        refused: why it loads nothing.
    """

    patches: dict[str, tuple[Patch, ...]] = field(default_factory=dict)
    matched: set[str] = field(default_factory=set)
    unmatched: tuple[str, ...] = ()
    refused: str | None = None

    def add(self, layer: str, patch: Patch) -> None:
        """Adds a change of a layer."""
        self.patches[layer] = (*self.patches.get(layer, ()), patch)

    def refuse(self, why: str) -> UiReading:
        """The same reading with nothing loaded, and why."""
        return UiReading({}, set(), self.unmatched, why)


File = Mapping[str, Tensor]


@dataclass(frozen=True)
class Loaders:
    """The UIs that load LoRA files for a family of models.

    Args:
        rules: by UI, how it reads a file with its metadata, for a model of a given shape.
        shape_of: the shape of a transformer, as the rules need it.
        promised: the UIs that each layout is for.
        where: the folder in which each of these looks for LoRAs, or how its code loads them.
        also: further UIs that a layout works in, for a model of a given shape.
    """

    rules: Mapping[str, Callable[[File, Mapping[str, str], Any], UiReading]]
    shape_of: Callable[[nn.Module], Any]
    promised: Mapping[str, Sequence[str]]
    where: Mapping[str, str]
    also: Callable[[str, Any], Sequence[str]] = lambda layout, shape: ()

    def readings(self, file: File, metadata: Mapping[str, str], shape: Any) -> dict[str, UiReading]:
        """How each UI reads a file."""
        return {ui: rule(file, metadata, shape) for ui, rule in self.rules.items()}
