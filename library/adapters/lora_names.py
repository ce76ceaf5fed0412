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
        ending: what the file's name has before ".safetensors".
        write: the tensors, float32.
        says: what the metadata has to say besides.
    """

    ending: str
    write: Callable[[Mapping[str, LayerWeights]], dict[str, Tensor]]
    says: Callable[[Mapping[str, LayerWeights]], dict[str, str]] = lambda weights: {}


def by_own_names(
    changes: Mapping[str, FileChange], weights: Collection[str]
) -> tuple[dict[str, FileChange], list[str]]:
    """The weights of a checkpoint in diffusers' layout that changes of layers are changes of, and the layers that it
    lacks."""
    places = {f"{name}.weight": change for name, change in changes.items() if f"{name}.weight" in weights}
    return places, [name for name in changes if f"{name}.weight" not in places]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraNames:
    """The names of a family's layers in LoRA files.

    Args:
        model: what messages call the family.
        layouts: those that a LoRA is saved in, by the names that the setting `save_formats` has for them.
        block_lists: names of the lists of the transformer's blocks.
        is_known: whether a name is that of a layer of the family.
        spellings_of: whose names those of the transformer's layers are, each program once.
        named: the diffusers layers that a layer of a file is, each with its part of the change; `ModelError` if there
            is not such a layer, or the shape can't be. The third argument is the file, for messages.
        text_encoders: begins of the names of their layers.
        embeddings: the keys of a textual inversion.
        fused: the layer of another trainer's file that a layer is a part of, and which may have one down for all its
            parts; None: it is one there, too.
        in_checkpoint: the weights of a checkpoint that changes of layers are changes of, and the layers without a
            place there; the second argument has the names of the checkpoint's weights.
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
"""Those of every family, in the order in which they came."""


def add_names(names: LoraNames) -> None:
    """Makes a family's names known to anyone who reads LoRA files; twice is once."""
    if names not in ALL_NAMES:
        ALL_NAMES.append(names)


def names_of(layers: Collection[str]) -> LoraNames:
    """The names of the family that knows most of these layers of a file; the first family's if none knows any."""
    return max(ALL_NAMES, key=lambda names: sum(map(names.is_known, layers)))
