"""The learning weights of a run as part of its state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from library.adapters.network import AdapterNetwork
from library.hierarchical_embedding_injector import ConceptEmbeddings


def weights_of(
    network: AdapterNetwork,
    adapters: Iterable[str],
    embeddings: dict[str, ConceptEmbeddings],
    words: nn.Module | None = None,
) -> dict[str, Any]:
    """Adapters, concept embeddings and learned words, as they are."""
    return {
        "adapters": {
            adapter: {name: list(layer.adapters[adapter].parameters()) for name, layer in network.layers.items()}
            for adapter in adapters
        },
        "embeddings": {name: one.state_dict() for name, one in embeddings.items()},
        "words": dict(words.named_parameters()) if words else {},
    }


@torch.no_grad()
def restore_weights(
    saved: dict[str, Any],
    network: AdapterNetwork,
    embeddings: dict[str, ConceptEmbeddings],
    words: nn.Module | None = None,
) -> None:
    """Puts saved weights into adapters, embeddings and words of the same shapes."""
    for adapter, layers in saved["adapters"].items():
        for name, tensors in layers.items():
            for parameter, tensor in zip(network.layers[name].adapters[adapter].parameters(), tensors, strict=True):
                parameter.copy_(tensor)
    for name, one in embeddings.items():
        one.load_state_dict(saved["embeddings"][name])
    for name, rows in words.named_parameters() if words else ():
        rows.copy_(saved["words"][name])
