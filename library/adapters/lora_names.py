"""How LoRA files name the layers of a family of models; each family adds its own names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from library.adapters.changes import FileChange
from library.adapters.network import LayerWeights


@dataclass(frozen=True)
class Layout:
    """One way to name and shape the tensors of a LoRA.

    Args:
        ending: of the file's name, before ".safetensors".
        write: makes the tensors, float32.
        says: additional metadata.
    """

    ending: str
    write: Callable[[Mapping[str, LayerWeights]], dict[str, Tensor]]
    says: Callable[[Mapping[str, LayerWeights]], dict[str, str]] = lambda weights: {}


def by_own_names(
    changes: Mapping[str, FileChange], weights: Collection[str]
) -> tuple[dict[str, FileChange], list[str]]:
    """The weights of a checkpoint in diffusers' layout that the changed layers belong to, and the layers that it
    lacks."""
    places = {f"{name}.weight": change for name, change in changes.items() if f"{name}.weight" in weights}
    return places, [name for name in changes if f"{name}.weight" not in places]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraNames:
    """The names of a family's layers in LoRA files.

    Args:
        model: the family's name in messages.
        layouts: in which a LoRA is saved, by their names in the setting `save_formats`.
        block_lists: names of the lists of the transformer's blocks.
        is_known: whether the family has a layer of that name.
        spellings_of: the programs that name the transformer's layers like this, each once.
        named: the diffusers layers behind a layer of a file, each with its part of the change; `ModelError` if there
            is no such layer, or its shape is impossible. The third argument is the file, for messages.
        text_encoders: prefixes of the names of their layers.
        embeddings: the keys of a textual inversion.
        fused: the layer in another trainer's file that a layer is a part of, and which may share one down among its
            parts; None: it is a layer there, too.
        in_checkpoint: the weights of a checkpoint that the changed layers belong to, and the layers without a place
            there; the second argument has the names of the checkpoint's weights.
    """

    model: str
    layouts: Mapping[str, Layout]
    block_lists: Sequence[str]
    is_known: Callable[[str], bool]
    spellings_of: Callable[[Iterable[str]], list[str]]
    named: Callable[[str, FileChange, str], dict[str, FileChange]]
    text_encoders: tuple[str, ...] = ()
    embeddings: Collection[str] = ()
    fused: Callable[[str], str | None] = lambda layer: None
    in_checkpoint: Callable[[Mapping[str, FileChange], Collection[str]], tuple[dict[str, FileChange], list[str]]] = (
        by_own_names
    )


ALL_NAMES: list[LoraNames] = []
"""The names of every family, in the order of registration."""


def add_names(names: LoraNames) -> None:
    """Registers a family's names for reading LoRA files; a second time does nothing."""
    if names not in ALL_NAMES:
        ALL_NAMES.append(names)


def names_of(layers: Collection[str]) -> LoraNames:
    """The names of the family that knows most of these layers; the first family's if none knows any."""
    return max(ALL_NAMES, key=lambda names: sum(map(names.is_known, layers)))
