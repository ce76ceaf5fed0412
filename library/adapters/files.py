"""LoRA and concept files: written for others to load, read as others wrote them. Safetensors only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from library.adapters.diffusers_layout import from_diffusers, to_diffusers
from library.adapters.kohya import PREFIX as KOHYA
from library.adapters.kohya import from_kohya, to_kohya
from library.adapters.network import LayerWeights
from library.atomic import write_tensors
from library.errors import ModelError

PRECISIONS = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CONCEPT = "lora_concept."
"""Begin of the names of concept embeddings."""
POSITIONS_RULE = (
    "Every token that holds characters of the trigger, at each of its occurrences in the prompt, is replaced at the "
    "input of block l by vector [l, i]: i counts CLIP's tokens of the trigger first, then T5's pieces."
)


@dataclass(frozen=True)
class SavedConcept:
    """What one needs to know to use a concept's vectors."""

    name: str
    trigger: str
    class_word: str
    kind: str
    target: str
    clip_tokens: int
    t5_tokens: int
    every_block: bool
    t5_length: int


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file.

    Raises:
        ModelError: no such file, or not safetensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelError(f"There is no file {path}.")
    if path.suffix != ".safetensors":
        raise ModelError(f"{path} is not a .safetensors file.", "Pickled files (.pt, .ckpt, .bin) are never opened.")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} can't be read: {error}.", "It may be damaged; fetch or make it again.") from error


def save_lora(
    folder: Path, name: str, weights: Mapping[str, LayerWeights], blocks: int, precision: str, metadata: dict[str, str]
) -> list[Path]:
    """Writes a LoRA in both layouts: `name.safetensors` (kohya) and `name_diffusers.safetensors`."""
    layouts = {f"{name}.safetensors": to_kohya(weights, blocks), f"{name}_diffusers.safetensors": to_diffusers(weights)}
    for file, tensors in layouts.items():
        saved = {
            key: tensor if key.endswith(".alpha") else tensor.to(PRECISIONS[precision])
            for key, tensor in tensors.items()
        }
        write_tensors(folder / file, saved, {**metadata, "sshs_model_hash": _hash(saved), "format": "pt"})
    return [folder / file for file in layouts]


def load_lora(path: str | Path, blocks: int) -> dict[str, LayerWeights]:
    """The layers of a LoRA file in kohya's or diffusers' layout, by diffusers name.

    Raises:
        ModelError: neither of the two layouts, or damaged.
    """
    tensors, _ = read_safetensors(path)
    if any(key.startswith(KOHYA) for key in tensors):
        return from_kohya(tensors, blocks, str(path))
    if any(key.endswith(".lora_A.weight") for key in tensors):
        return from_diffusers(tensors, str(path))
    raise ModelError(
        f"{path} is not a LoRA for SD3: it has neither kohya's names ({KOHYA}_...) nor diffusers' (transformer...).",
        f"It begins with {next(iter(tensors), 'nothing')}.",
    )


def save_concepts(path: Path, vectors: Mapping[str, Tensor], concepts: list[SavedConcept]) -> None:
    """Writes concept embeddings: one tensor (L, tokens, width) a concept, float32, all else in the metadata."""
    tensors = {f"{CONCEPT}{name}": tensor.float() for name, tensor in vectors.items()}
    write_tensors(path, tensors, concept_metadata(concepts))


def concept_metadata(concepts: list[SavedConcept]) -> dict[str, str]:
    """What a file with concept embeddings says about them."""
    return {
        "purecc_format": "1",
        "concepts": json.dumps([asdict(concept) for concept in concepts]),
        "token_positions": POSITIONS_RULE,
    }


def load_concepts(path: str | Path) -> tuple[dict[str, Tensor], list[SavedConcept]]:
    """Concept embeddings and what they need.

    Raises:
        ModelError: not such a file, or its parts contradict each other.
    """
    tensors, metadata = read_safetensors(path)
    try:
        concepts = [SavedConcept(**entry) for entry in json.loads(metadata["concepts"])]
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path} holds no concept embeddings.", "They are in the file NAME_concept.safetensors."
        ) from error
    vectors = {key.removeprefix(CONCEPT): tensor for key, tensor in tensors.items() if key.startswith(CONCEPT)}
    for concept in concepts:
        tensor = vectors.get(concept.name)
        if tensor is not None and (tensor.ndim != 3 or tensor.shape[1] != concept.clip_tokens + concept.t5_tokens):
            raise ModelError(f'{path}: the vectors of "{concept.name}" have the shape {tuple(tensor.shape)}.')
    return vectors, concepts


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all tensors by name, the hash that UIs show for a LoRA."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
