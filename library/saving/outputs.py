"""The results of a run: the student's LoRA, its concept embeddings, and the extractor for another run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from library.adapters.extraction import extracted
from library.adapters.files import (
    add_thumbnail,
    concept_metadata,
    load_concepts,
    read_safetensors,
    save_concepts,
    save_lora,
)
from library.adapters.network import LayerWeights
from library.adapters.reading import pair_of
from library.config.dataset import Concept
from library.config.settings import Settings
from library.errors import ConfigError, ModelError, naming
from library.files.atomic import saved_at, write_tensors, write_text, written
from library.hierarchical_embedding_injector import ConceptEmbeddings
from library.models.opening import FAMILIES
from library.parts.branching import is_saved_as_it_is, learns_whole_weights
from library.parts.learned import Extractor, Student, extractor_adapters, extractor_of
from library.parts.parts import SAVED_ADAPTER, STUDENT_ADAPTER, Attached, Opened
from library.parts.saved_vectors import embeddings_of
from library.parts.words import save_words
from library.saving.metadata import metadata_of, sidecar_of

EXTRACTOR_KEYS = "extractor."
CONCEPT_FILE = "concept"
"""The layout's name for a file with concept embeddings."""
TRANSFORMER_FILE = "transformer"
"""The layout's name for a file with a whole transformer."""
WORDS_FILE = "words"
"""The layout's name for a file with learned words."""
THUMBNAIL_SIDE = 256
"""Longest side of the picture in a LoRA file, in pixels."""


def save_student(
    parts: Attached, student: Student, steps: int, suffix: str = "", about_data: Mapping[str, str] | None = None
) -> dict[Path, str]:
    """Writes the LoRA in the layouts of `save_formats`, and the student's concept embeddings if it has them.

    Args:
        about_data: the metadata about the pictures.

    Returns:
        Each file with its layout; "concept" for the embeddings, "transformer" for the whole of it,
        "words" for learned words.
    """
    settings, saving = parts.settings, parts.settings.saving
    name = f"{saving.output_name}{suffix}"
    if student.words is not None:
        return dict.fromkeys(save_words(parts, student.words, name), WORDS_FILE)
    weights, metadata = shown_weights(parts), metadata_of(parts, steps, about_data)
    layouts = parts.model.family.lora_names.layouts
    paths = save_lora(settings.output_dir, name, weights, saving.save_precision, metadata, saving.save_formats, layouts)
    files: dict[Path, str] = dict(zip(paths, saving.save_formats, strict=True))
    if student.branch.embeddings:
        path = settings.output_dir / f"{name}_concept.safetensors"
        save_concepts(path, _vectors(student.branch.embeddings), parts.saved_concepts())
        files[saved_at(path)] = CONCEPT_FILE
    if learns_whole_weights(parts.settings):
        files[save_transformer(parts, settings.output_dir / f"{name}_transformer.safetensors")] = TRANSFORMER_FILE
    return files


def shown_weights(parts: Attached) -> dict[str, LayerWeights]:
    """The student as a plain LoRA; of whole weights, the largest singular directions of each layer's change."""
    if learns_whole_weights(parts.settings):
        layers, rank = parts.network.layers.items(), parts.settings.network.network_dim
        weights = {name: extracted(layer.full_rank(STUDENT_ADAPTER).weight, rank) for name, layer in layers}
    else:
        weights = parts.network.weights(STUDENT_ADAPTER)
    if not is_saved_as_it_is(parts.settings):
        parts.network.load(SAVED_ADAPTER, weights, "the saved LoRA")
    return weights


@torch.no_grad()
def save_transformer(parts: Attached, path: Path) -> Path:
    """Writes the whole transformer with the student in it, by diffusers' names, in the precision of training."""
    changes = {
        f"{name}.weight": layer.full_rank(STUDENT_ADAPTER).weight for name, layer in parts.network.layers.items()
    }
    tensors = {}
    for name, tensor in parts.model.pretrained_weights():
        change = changes.get(name)
        tensors[name] = tensor if change is None else (tensor.float() + change.float().cpu()).to(tensor.dtype)
    write_tensors(path, tensors, {"format": "pt"})
    return saved_at(path)


def save_preview(parts: Opened, files: Mapping[Path, str], picture: Image.Image) -> list[Path]:
    """What UIs show of a LoRA: a picture next to it and in it, and the prompt text for Forge.

    Args:
        files: as `save_student` gives them; the first one gets picture and text next to it.
    """
    loras = [path for path, layout in files.items() if layout in parts.model.family.lora_names.layouts]
    small, jpeg = picture.convert("RGB"), BytesIO()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    small.save(jpeg, "JPEG", quality=88)
    for path in loras:
        add_thumbnail(path, jpeg.getvalue())
    first = next(iter(files))
    beside, text = first.with_suffix(".preview.png"), first.with_suffix(".json")
    with written(beside) as temporary:
        picture.save(temporary)
    write_text(text, json.dumps(sidecar_of(parts), indent=2, ensure_ascii=False) + "\n")
    return [saved_at(beside), saved_at(text)]


def save_extractor(parts: Attached, extractor: Extractor) -> Path:
    """Writes stage 1's result, float32: LoRA and concept embeddings of every concept, for `extractor = PATH`."""
    tensors = {f"lora_concept.{name}": vectors for name, vectors in _vectors(extractor.branch.embeddings).items()}
    for concept, adapter in extractor.branch.adapters.items():
        for layer, weights in parts.network.weights(adapter).items():
            begin = f"{EXTRACTOR_KEYS}{concept}.{layer}"
            alpha = torch.tensor(weights.alpha)
            tensors |= {f"{begin}.down": weights.down, f"{begin}.up": weights.up, f"{begin}.alpha": alpha}
    path = parts.settings.output_dir / f"{parts.settings.saving.output_name}_extractor.safetensors"
    write_tensors(path, tensors, {**concept_metadata(parts.saved_concepts()), "format": "pt"})
    return saved_at(path)


def check_model_is_kept(settings: Settings) -> None:
    """Checks that a run doesn't overwrite a file of the model that it reads, such as an earlier run's transformer.

    Raises:
        ConfigError: it would.
    """
    folder, name = settings.output_dir.resolve(), settings.saving.output_name
    own_files = dict.fromkeys(name for family in FAMILIES.values() for name in family.own_files.values())
    for setting in ("pretrained_model_name_or_path", *own_files):
        path = Path(getattr(settings.model, setting) or "").expanduser().resolve()
        own = path.stem == name or path.stem.startswith((f"{name}_", f"{name}-"))
        if path.is_file() and path.parent == folder and own:
            raise ConfigError(
                f'{setting}: this run, with output_name "{name}", may overwrite {path}.',
                "Choose another output_name or output_dir.",
            )


def check_extractor(path: str, concepts: list[Concept]) -> None:
    """Checks that a file has complete extractors of these concepts, before anything is computed.

    Raises:
        ModelError: one is missing, damaged, or for another trigger.
    """
    tensors, _ = read_safetensors(path)
    known = {saved.name: saved for saved in load_concepts(path)[1]}
    for concept in concepts:
        if concept.name not in known or not _extractor_in(tensors, concept, path):
            raise ModelError(
                f'extractor: {path} contains no extractor for the concept "{concept.name}".',
                f"It contains: {', '.join(known) or 'none'}. Save one from a run with the same concept names.",
            )
        if known[concept.name].trigger != concept.trigger:
            raise ModelError(
                f'extractor: {path} learned "{concept.name}" with the trigger "{known[concept.name].trigger}", but '
                f'this run uses "{concept.trigger}".',
                "Use the same trigger.",
            )


def _extractor_in(tensors: Mapping[str, Tensor], concept: Concept, path: str) -> dict[str, LayerWeights]:
    """A concept's extractor in the tensors of a file, by layer; empty if it has none."""
    begin, layers = f"{EXTRACTOR_KEYS}{concept.name}.", dict[str, dict[str, Tensor]]()
    for key, tensor in tensors.items():
        if key.startswith(begin):
            layer, _, half = key.removeprefix(begin).rpartition(".")
            layers.setdefault(layer, {})[half] = tensor
    return {layer: pair_of(halves, layer, f"extractor: {path}") for layer, halves in layers.items()}


def load_extractor(parts: Attached, path: str) -> Extractor:
    """Loads the extractor of another run: its adapters and embeddings, frozen.

    Raises:
        ModelError: it lacks a concept of this run, or does not fit the model.
    """
    with naming("extractor"):
        check_extractor(path, parts.concepts)
        tensors, _ = read_safetensors(path)
        adapters = extractor_adapters(parts)
        for concept in parts.concepts:
            parts.network.load(adapters[concept.name], _extractor_in(tensors, concept, path), path)
        return extractor_of(parts, adapters, embeddings_of(parts, load_concepts(path)[0], path))


def _vectors(embeddings: Mapping[str, ConceptEmbeddings]) -> dict[str, Tensor]:
    return {name: one.per_block().cpu() for name, one in embeddings.items()}
