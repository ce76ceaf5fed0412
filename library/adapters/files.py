"""LoRA and concept files: written for other programs to load, read as other programs wrote them. Safetensors only."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from library.adapters.lora_names import ALL_NAMES, Layout, LoraNames, names_of
from library.adapters.metadata import fitting, hashes_of
from library.adapters.network import Change, LayerWeights
from library.adapters.reading import LoraFile, understood
from library.errors import ModelError
from library.files.atomic import saved_at, write_tensors
from library.files.tensor_storage import read_tensors

PRECISIONS = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LARGEST_HEADER = 8 << 20
"""Most bytes of names and metadata in a file; ComfyUI reads as many."""
CONCEPT = "lora_concept."
"""Start of the names of concept embeddings."""
TOKENS, LENGTH = "_tokens", "_length"
"""Endings of the keys for how many tokens a trigger has in a text stream, and for the stream's length."""
POSITIONS_RULE = (
    "Every token that holds characters of the trigger, at each of its occurrences in the prompt, is replaced at the "
    "input of block l by vector [l, i]: i counts the trigger's tokens of one text stream after the other, in the order "
    "of the keys that end in _tokens."
)


@dataclass(frozen=True)
class SavedConcept:
    """What a program needs to know to use a concept's vectors.

    Args:
        tokens: how many of the trigger have vectors, by the key of the model's text stream.
        lengths: of the streams whose length is a setting.
        optional: the LoRA needs only the trigger word, and does the same without them.
    """

    name: str
    trigger: str
    class_word: str
    kind: Literal["subject", "style"]
    target: str
    tokens: Mapping[str, int]
    every_block: bool
    lengths: Mapping[str, int] = field(default_factory=dict)
    optional: bool = False

    def entry(self) -> dict[str, Any]:
        """As files store it: a key for each stream's tokens and length, such as "clip_tokens"."""
        entry: dict[str, Any] = {}
        for name, value in asdict(self).items():
            ending = {"tokens": TOKENS, "lengths": LENGTH}.get(name)
            entry |= {name: value} if ending is None else {f"{key}{ending}": count for key, count in value.items()}
        return entry

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> SavedConcept:
        """The reverse of `entry`.

        Raises:
            TypeError: a key is missing, or there is one too many.
        """
        tokens, lengths = (
            {key.removesuffix(ending): value for key, value in entry.items() if key.endswith(ending)}
            for ending in (TOKENS, LENGTH)
        )
        if not tokens:
            raise TypeError("no stream has tokens")
        others = {key: value for key, value in entry.items() if not key.endswith((TOKENS, LENGTH))}
        return cls(**others, tokens=tokens, lengths=lengths)


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file.

    Raises:
        ModelError: the file is missing, is not a safetensors file, or has a header too large for a LoRA.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelError(
            f"The file {path} doesn't exist.", "Relative paths start at the folder where you run the command."
        )
    if path.suffix != ".safetensors":
        raise ModelError(f"{path} is not a .safetensors file.", "Pickled files (.pt, .ckpt, .bin) are never opened.")
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if LARGEST_HEADER < header <= path.stat().st_size:
        raise ModelError(
            f"{path} has {header / 2**20:.1f} MiB of names and metadata; at most {LARGEST_HEADER >> 20} MiB are "
            "allowed.",
            "Download it again, or use another file.",
        )
    try:
        return read_tensors(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} can't be read: {error}.", "It may be damaged; download or make it again.") from error


def save_lora(
    folder: Path,
    name: str,
    weights: Mapping[str, LayerWeights],
    precision: str,
    metadata: Mapping[str, str],
    formats: Sequence[str] = ("kohya", "diffusers"),
    layouts: Mapping[str, Layout] | None = None,
) -> list[Path]:
    """Writes a LoRA once per layout: `name.safetensors` is kohya's, the other names say which layout they have.

    Args:
        layouts: the layouts of the model's family; None: of the family that has these layers.

    Raises:
        ModelError: the family has no such layout.
    """
    layouts = names_of(weights).layouts if layouts is None else layouts
    missing = next((one for one in formats if one not in layouts), None)
    if missing:
        raise ModelError(f"save_formats: this model's family has no layout {missing}.", f"It has {', '.join(layouts)}.")
    paths = [folder / f"{name}{layouts[one].ending}.safetensors" for one in formats]
    for path, one in zip(paths, formats, strict=True):
        write_lora(path, weights, one, PRECISIONS[precision], metadata, layouts)
    return [saved_at(path) for path in paths]


def write_lora(
    path: Path,
    weights: Mapping[str, LayerWeights],
    layout: str,
    dtype: torch.dtype,
    metadata: Mapping[str, str],
    layouts: Mapping[str, Layout] | None = None,
) -> list[str]:
    """Writes one file in one layout, with the hashes of its tensors in the metadata.

    Args:
        layouts: see `save_lora`.

    Returns:
        Names of metadata left out because the header would be too large for ComfyUI.

    Raises:
        ModelError: the layout has no name for one of the layers.
    """
    chosen = (names_of(weights).layouts if layouts is None else layouts)[layout]
    tensors = {
        key: tensor if key.endswith(".alpha") else tensor.to(dtype) for key, tensor in chosen.write(weights).items()
    }
    said, dropped = fitting({**metadata, **chosen.says(weights), "format": "pt"}, tensors)
    write_tensors(path, tensors, {**said, **hashes_of(tensors, said)})
    return dropped


def add_thumbnail(path: Path, jpeg: bytes) -> None:
    """Puts a picture into a LoRA file's metadata, if there is room. The tensors and their hashes don't change."""
    tensors, metadata = read_safetensors(path)
    picture = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
    fits, dropped = fitting({**metadata, "modelspec.thumbnail": picture}, tensors)
    if not dropped:
        write_tensors(path, tensors, fits)


def read_changes(path: str | Path) -> LoraFile:
    """Reads a file in any layout with LoRAs, LoHas, LoKrs or full changes of weights.

    Raises:
        ModelError: it is for no known family, of another kind, or damaged.
    """
    tensors, metadata = read_safetensors(path)
    return understood(tensors, metadata, str(path))


def read_lora(path: str | Path) -> LoraFile:
    """Reads a LoRA file in any layout.

    Raises:
        ModelError: it is not exactly a LoRA, for no known family, or damaged.
    """
    file = read_changes(path)
    if file.whole:
        kinds = " and a ".join(kind for kind in file.kinds if kind != "LoRA")
        raise ModelError(
            f"{path} is a {kinds}, which a LoRA can't represent exactly.",
            "Convert it to the closest LoRA: purecc_convert.py --to kohya.",
        )
    return file


def load_lora(path: str | Path, blocks: int) -> dict[str, LayerWeights]:
    """The layers of a LoRA file in any layout, by diffusers name.

    Args:
        blocks: how many transformer blocks the model has.

    Raises:
        ModelError: it is not exactly a LoRA, for a model of another size, or damaged.
    """
    file = read_lora(path)
    layers, names = file.layers, file.names
    if any(name.startswith(names.text_encoders) for name in layers):
        raise ModelError(
            f"{path} also changes the text encoders, which only UIs can use.",
            "Remove that part: purecc_convert.py --transformer_only.",
        )
    _check_blocks(layers, names, blocks, path)
    return layers


def load_changes(path: str | Path, blocks: int) -> tuple[dict[str, Change], list[str]]:
    """What a file changes in the transformer, by diffusers name, and a text that says what is left out.

    Args:
        blocks: how many transformer blocks the model has.

    Raises:
        ModelError: it is for a model of another size, of an unreadable kind, only for text encoders, or damaged.
    """
    file = read_changes(path)
    every: dict[str, Change] = {**file.layers, **file.whole}
    changes = {name: change for name, change in every.items() if not name.startswith(file.names.text_encoders)}
    if not changes:
        raise ModelError(f"{path} changes only the text encoders, which only UIs can use.")
    _check_blocks(changes, file.names, blocks, path)
    left = len(every) - len(changes)
    said = f"{path} also changes the text encoders ({left}); these layers are left out."
    return changes, [said] if left else []


def _check_blocks(layers: Iterable[str], names: LoraNames, blocks: int, path: str | Path) -> None:
    numbers = [int(layer.split(".")[1]) for layer in layers if layer.partition(".")[0] in names.block_lists]
    if numbers and max(numbers) >= blocks:
        raise ModelError(
            f"{path} has a LoRA for block {max(numbers)}, but this model has blocks 0 to {blocks - 1}.",
            "It was trained for a larger model.",
        )


def save_concepts(path: Path, vectors: Mapping[str, Tensor], concepts: Sequence[SavedConcept]) -> None:
    """Writes concept embeddings: one tensor (L, tokens, width) per concept, float32, and the rest in the metadata."""
    tensors = {f"{CONCEPT}{name}": tensor.float() for name, tensor in vectors.items()}
    write_tensors(path, tensors, concept_metadata(concepts))


def concept_metadata(concepts: Sequence[SavedConcept]) -> dict[str, str]:
    """The metadata of a file with concept embeddings."""
    return {
        "purecc_format": "1",
        "concepts": json.dumps([concept.entry() for concept in concepts]),
        "token_positions": POSITIONS_RULE,
    }


def load_concepts(path: str | Path) -> tuple[dict[str, Tensor], list[SavedConcept]]:
    """Reads concept embeddings and what is needed to use them.

    Raises:
        ModelError: it is not such a file, or its parts contradict each other.
    """
    tensors, metadata = read_safetensors(path)
    try:
        concepts = [SavedConcept.of_entry(entry) for entry in json.loads(metadata["concepts"])]
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{path} contains no concept embeddings.", "They are in the file NAME_concept.safetensors."
        ) from error
    vectors = {key.removeprefix(CONCEPT): tensor for key, tensor in tensors.items() if key.startswith(CONCEPT)}
    for concept in concepts:
        _check_described(concept, path)
        tensor = vectors.get(concept.name)
        if tensor is not None and (tensor.ndim != 3 or tensor.shape[1] != sum(concept.tokens.values())):
            raise ModelError(f'{path}: the vectors of "{concept.name}" have the shape {tuple(tensor.shape)}.')
        if tensor is not None and not tensor.isfinite().all():
            raise ModelError(f'{path}: the vectors of "{concept.name}" contain NaN or infinite values.')
    return vectors, concepts


def _check_described(concept: SavedConcept, path: str | Path) -> None:
    texts = (concept.name, concept.trigger, concept.class_word, concept.kind, concept.target)
    counts, flag = concept.tokens.values(), concept.optional
    whole = all(type(n) is int and n >= 0 for n in counts) and isinstance(flag, bool)
    if not whole or not all(isinstance(text, str) for text in texts) or concept.kind not in ("subject", "style"):
        raise ModelError(f"{path}: the description of its concepts is damaged.", "Copy the file again.")


@dataclass(frozen=True)
class ConceptFile:
    """The concept file that a LoRA is used with.

    Args:
        named: the user asks for its vectors; otherwise they are left out if the LoRA doesn't need them.
    """

    path: Path
    named: bool = False

    def load(self) -> tuple[dict[str, Tensor], list[SavedConcept]]:
        """The vectors to use, and what the file says about its concepts.

        Raises:
            ModelError: it is not such a file, or its parts contradict each other.
        """
        vectors, saved = load_concepts(self.path)
        acting = {one.name for one in saved if self.named or not one.optional}
        return {name: tensor for name, tensor in vectors.items() if name in acting}, saved


def concept_file_for(lora: Path, given: str | None) -> ConceptFile | None:
    """The concept file of a LoRA: the one that `--concept` names, by default the one next to it."""
    if given == "none":
        return None
    if given:
        return ConceptFile(Path(given).expanduser(), named=True)
    beside = concept_file_of(lora)
    return None if beside is None else ConceptFile(beside)


def concept_file_of(lora: Path) -> Path | None:
    """The concept file that was saved next to a LoRA, if there is one."""
    stem = lora.stem
    for ending in layout_endings():
        stem = stem.removesuffix(ending)
    file = lora.with_name(f"{stem}_concept.safetensors")
    return file if file.is_file() else None


def layout_endings() -> tuple[str, ...]:
    """Name endings of the LoRA files that share one concept file."""
    return tuple(dict.fromkeys(layout.ending for names in ALL_NAMES for layout in names.layouts.values()))
