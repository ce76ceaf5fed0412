"""What a run leaves: the student's LoRA in both layouts, its concept embeddings, and the extractor for another run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from library import __version__
from library.adapters.files import concept_metadata, load_concepts, read_safetensors, save_concepts, save_lora
from library.adapters.network import LayerWeights
from library.atomic import write_tensors
from library.config.dataset import Concept
from library.errors import ModelError
from library.hierarchical_embedding_injector import ConceptEmbeddings
from library.training.parts import STUDENT_ADAPTER, Parts, extractor_adapter

EXTRACTOR = "extractor."


def metadata_of(parts: Parts, steps: int) -> dict[str, str]:
    """What UIs and other trainers read in a LoRA file: kohya's ss_* and Stability's modelspec.*."""
    settings, size = parts.settings, parts.settings.data.resolution
    width, height = (size, size) if isinstance(size, int) else size
    pure = settings.pure_learning
    return {
        "ss_output_name": settings.saving.output_name,
        "ss_network_module": "networks.lora_sd3",
        "ss_network_dim": str(settings.network.network_dim),
        "ss_network_alpha": str(settings.network.network_alpha),
        "ss_base_model_version": "sd3",
        "ss_resolution": f"({width}, {height})",
        "ss_steps": str(steps),
        "ss_learning_rate": str(settings.optimizer.learning_rate),
        "ss_optimizer": settings.optimizer.optimizer_type,
        "ss_seed": str(settings.optimizer.seed),
        "ss_training_comment": f"PureCC {__version__}: eta {pure.eta}, lambda {pure.lambda_}, anchor "
        f"{pure.anchor_weight}, replay {pure.replay_weight if pure.replay_images else 0}",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-3-5-medium/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/sd3.5",
        "modelspec.title": settings.saving.output_name,
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.trigger_phrase": ", ".join(concept.trigger for concept in parts.concepts),
        "modelspec.prediction_type": "v",
        "purecc": json.dumps({"version": __version__, "concepts": [concept.name for concept in parts.concepts]}),
    }


def save_student(parts: Parts, steps: int, suffix: str = "") -> list[Path]:
    """Writes the LoRA in both layouts and, if the student has them, its concept embeddings."""
    settings = parts.settings
    name = f"{settings.saving.output_name}{suffix}"
    weights, saving = parts.network.weights(STUDENT_ADAPTER), settings.saving
    metadata = metadata_of(parts, steps)
    files = save_lora(settings.output_dir, name, weights, saving.save_precision, metadata, saving.save_formats)
    if parts.student_embeddings:
        path = settings.output_dir / f"{name}_concept.safetensors"
        save_concepts(path, _vectors(parts.student_embeddings), parts.saved_concepts())
        files.append(path)
    return files


def save_extractor(parts: Parts) -> Path:
    """Writes stage 1's result, float32: LoRA and concept embeddings of every concept, for `extractor = PATH`."""
    tensors = {f"lora_concept.{name}": vectors for name, vectors in _vectors(parts.extractor_embeddings).items()}
    for concept in parts.concepts:
        for layer, weights in parts.network.weights(extractor_adapter(concept.name)).items():
            begin = f"{EXTRACTOR}{concept.name}.{layer}"
            alpha = torch.tensor(weights.alpha)
            tensors |= {f"{begin}.down": weights.down, f"{begin}.up": weights.up, f"{begin}.alpha": alpha}
    path = parts.settings.output_dir / f"{parts.settings.saving.output_name}_extractor.safetensors"
    write_tensors(path, tensors, {**concept_metadata(parts.saved_concepts()), "format": "pt"})
    return path


def check_extractor(path: str, concepts: list[Concept]) -> None:
    """Looks whether a file has the extractors of these concepts, before anything is computed.

    Raises:
        ModelError: it lacks one, or learned it for another trigger.
    """
    tensors, _ = read_safetensors(path)
    known = {saved.name: saved for saved in load_concepts(path)[1]}
    for concept in concepts:
        if concept.name not in known or not any(key.startswith(f"{EXTRACTOR}{concept.name}.") for key in tensors):
            raise ModelError(
                f'extractor: {path} has no extractor for the concept "{concept.name}".',
                f"It has: {', '.join(known) or 'none'}. Save it from a run with the same concept names.",
            )
        if known[concept.name].trigger != concept.trigger:
            raise ModelError(
                f'extractor: {path} learned "{concept.name}" for the trigger "{known[concept.name].trigger}", '
                f'this run has "{concept.trigger}".',
                "Use the same trigger.",
            )


def load_extractor(parts: Parts, path: str) -> None:
    """Takes the extractor of another run: its adapters and embeddings, frozen.

    Raises:
        ModelError: it lacks a concept of this run, or does not fit the model.
    """
    check_extractor(path, parts.concepts)
    tensors, _ = read_safetensors(path)
    for concept in parts.concepts:
        begin = f"{EXTRACTOR}{concept.name}."
        layers = {key.removeprefix(begin).rpartition(".")[0] for key in tensors if key.startswith(begin)}
        weights = {
            layer: LayerWeights(
                tensors[f"{begin}{layer}.down"], tensors[f"{begin}{layer}.up"], float(tensors[f"{begin}{layer}.alpha"])
            )
            for layer in layers
        }
        parts.network.load(extractor_adapter(concept.name), weights, path)
    parts.extractor_embeddings = embeddings_of(parts, load_concepts(path)[0], path)


def embeddings_of(parts: Parts, vectors: dict[str, Tensor], source: str) -> dict[str, ConceptEmbeddings]:
    """Frozen embeddings from saved vectors, for the concepts of this run.

    Raises:
        ModelError: they do not fit the model.
    """
    blocks, found = len(parts.model.blocks), {}
    width = parts.model.transformer_config["caption_projection_dim"]
    for name, tensor in vectors.items():
        if name not in parts.layouts:
            continue
        if tensor.shape[0] not in (1, blocks) or tensor.shape[2] != width:
            raise ModelError(
                f'{source}: the vectors of "{name}" are for {tensor.shape[0]} blocks of width {tensor.shape[2]}; this '
                f"model has {blocks} of width {width}.",
                "They were learned on another model.",
            )
        every = tensor.shape[0] == blocks
        embeddings = ConceptEmbeddings(tensor.to(parts.model.device), blocks, every_block=every)
        found[name] = embeddings.requires_grad_(False)
    return found


def _vectors(embeddings: dict[str, ConceptEmbeddings]) -> dict[str, Tensor]:
    return {name: one.per_block().cpu() for name, one in embeddings.items()}
