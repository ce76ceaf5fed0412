"""Reads `NAME_concept.safetensors`: a concept's vectors, and in the metadata what is needed to place them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

FORMAT = "1"
TENSOR = "lora_concept."
"""Start of the names of the tensors; the concept's name follows."""
PLACEHOLDER = "[V]"
"""Stands for the trigger in captions and prompts."""
MOST_T5_TOKENS = 4096
"""A file with a longer training length is taken to be damaged."""
LARGEST_HEADER = 8 << 20
"""Most bytes of names and metadata in a file; ComfyUI shows as many."""
MOST_SHOWN = 80
"""Most characters of a stranger's text in a message."""


@dataclass(frozen=True, eq=False)
class LoadedConcept:
    """A concept that can be placed in prompts."""

    name: str
    trigger: str
    clip_tokens: int
    t5_tokens: int
    t5_length: int
    """Tokens that T5 read of each prompt in training."""
    vectors: Tensor
    """(blocks, clip_tokens + t5_tokens, width), or (1, ...) for the first block alone; float32, CLIP's tokens first."""
    strength: float = 1.0


def read_concepts(path: str | Path, strength: float) -> list[LoadedConcept]:
    """The concepts of a file that have vectors, copied, so that the file can be replaced meanwhile.

    Args:
        strength: 1 puts the vectors in as they were learned, 0 leaves the prompt's own states.

    Raises:
        ValueError: not such a file, of a newer format, or its parts contradict each other.
    """
    path = Path(path)
    check_file(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            entries = _entries(metadata, path.name)
            names = set(file.keys())
            return [
                replace(_checked(entry, file.get_tensor(TENSOR + entry["name"]).clone(), path.name), strength=strength)
                for entry in entries
                if TENSOR + entry["name"] in names
            ]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} can't be read: {error}. It may be damaged; copy it again.") from error


def check_file(path: Path) -> None:
    """Checks a stranger's file before reading anything in it.

    Raises:
        ValueError: not safetensors, or with more names and metadata than an honest file needs.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name} is not a .safetensors file; others are never opened.")
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if LARGEST_HEADER < header <= path.stat().st_size:
        raise ValueError(
            f"{path.name} has {header / 2**20:.1f} MiB of names and metadata; at most {LARGEST_HEADER >> 20} MiB are "
            "allowed."
        )


def shown(text: str) -> str:
    """A stranger's text in quotes, shortened and without control characters."""
    return repr(text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}...")


def common_concepts(earlier: Sequence[LoadedConcept], new: Sequence[LoadedConcept]) -> tuple[LoadedConcept, ...]:
    """The concepts of several files for the same prompts.

    Raises:
        ValueError: two of them listen to the same trigger.
    """
    concepts = (*earlier, *new)
    triggers = [concept.trigger.lower() for concept in concepts]
    for trigger in triggers:
        if triggers.count(trigger) > 1:
            raise ValueError(f'Two concepts have the trigger "{trigger}", so a prompt can\'t tell them apart.')
    return concepts


def with_triggers(text: str, concepts: Sequence[LoadedConcept]) -> str:
    """The prompt with [V] replaced by the trigger.

    Raises:
        ValueError: [V] could be several concepts, or none.
    """
    if PLACEHOLDER not in text:
        return text
    if len(concepts) != 1:
        known = ", ".join(f'"{concept.trigger}"' for concept in concepts) or "none"
        raise ValueError(
            f"The prompt contains {PLACEHOLDER}, which works only with exactly one loaded concept. Write the trigger "
            f"itself; loaded: {known}."
        )
    return text.replace(PLACEHOLDER, concepts[0].trigger)


def _entries(metadata: dict[str, str], source: str) -> list[dict]:
    version = metadata.get("purecc_format")
    if version is None or "concepts" not in metadata:
        raise ValueError(
            f"{source} contains no concept vectors. They are in NAME_concept.safetensors, next to the LoRA."
        )
    if version != FORMAT:
        raise ValueError(f"{source} has format {version}, but this node reads format {FORMAT}. Update the node.")
    try:
        entries = json.loads(metadata["concepts"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: the description of its concepts is damaged.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{source}: the description of its concepts is damaged.")
    for entry in entries:
        for key, kind in (("name", str), ("trigger", str), ("clip_tokens", int), ("t5_tokens", int)):
            if not isinstance(entry.get(key), kind):
                raise ValueError(f'{source}: the description of a concept lacks "{key}".')
        if not entry["trigger"].strip():
            raise ValueError(f"{source}: the concept {shown(entry['name'])} has no trigger.")
        if entry["clip_tokens"] < 0 or entry["t5_tokens"] < 0:
            raise ValueError(f"{source}: the concept {shown(entry['name'])} has a negative number of tokens.")
    return entries


def _checked(entry: dict, vectors: Tensor, source: str) -> LoadedConcept:
    clip, t5, length = entry["clip_tokens"], entry["t5_tokens"], entry.get("t5_length", 0)
    if vectors.ndim != 3 or not vectors.is_floating_point() or vectors.shape[1] != clip + t5 or not len(vectors):
        raise ValueError(f"{source}: the vectors of {shown(entry['name'])} have the shape {tuple(vectors.shape)}.")
    if not vectors.isfinite().all():
        raise ValueError(f"{source}: the vectors of {shown(entry['name'])} contain NaN or infinite values.")
    if not isinstance(length, int) or not 0 <= length <= MOST_T5_TOKENS:
        raise ValueError(f"{source}: {shown(str(length))} is not a valid training length of T5.")
    return LoadedConcept(entry["name"], entry["trigger"], clip, t5, length, vectors.float())
