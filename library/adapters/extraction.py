"""Extracts a LoRA from a change of whole weights: the largest singular directions of every layer."""

from __future__ import annotations

import torch
from torch import Tensor

from library.adapters.network import LayerWeights


@torch.no_grad()
def extracted(change: Tensor, rank: int) -> LayerWeights:
    """The LoRA of this rank that is closest to a weight's change; it loses the dropped singular values.

    Uses the eigenvectors of the smaller of the two products of the change with itself, in float64. They give the same
    directions as a singular value decomposition, in a fraction of the time.

    Args:
        change: (out, in).
        rank: at most; a layer with a shorter side gets that side as its rank.

    Returns:
        On the CPU, float32, with alpha = rank, so that its scale is 1.
    """
    wide = change.shape[0] <= change.shape[1]
    whole = change.double() if wide else change.double().T
    rank = min(rank, len(whole))
    _, vectors = torch.linalg.eigh(whole @ whole.T)
    directions = vectors[:, -rank:].flip(1)
    others = directions.T @ whole
    length = others.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    one, other = directions * length, others / length[:, None]
    up, down = (one, other) if wide else (other.T, one.T)
    return LayerWeights(down.float().cpu().contiguous(), up.float().cpu().contiguous(), float(rank))
