"""Saved vectors as embeddings of a run."""

from __future__ import annotations

from torch import Tensor

from library.errors import ModelError
from library.hierarchical_embedding_injector import ConceptEmbeddings
from library.parts.parts import Opened


def embeddings_of(parts: Opened, vectors: dict[str, Tensor], source: str) -> dict[str, ConceptEmbeddings]:
    """Frozen embeddings from saved vectors, for the concepts of this run.

    Raises:
        ModelError: they don't fit the model.
    """
    blocks, width, found = parts.model.depth, parts.model.width, {}
    for name, tensor in vectors.items():
        if name not in parts.layouts:
            continue
        if tensor.shape[0] not in (1, blocks) or tensor.shape[2] != width:
            raise ModelError(
                f'{source}: the vectors of "{name}" are for {tensor.shape[0]} blocks of width {tensor.shape[2]}; this '
                f"model has {blocks} of width {width}.",
                "They were trained on another model.",
            )
        every = tensor.shape[0] == blocks
        embeddings = ConceptEmbeddings(tensor.to(parts.model.device), blocks, every_block=every)
        found[name] = embeddings.requires_grad_(False)
    return found
