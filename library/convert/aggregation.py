"""Elastic weight aggregation of CIFC: how strongly each concept's LoRA acts, anew for every prompt.

Dong et al. (arXiv 2410.17594): with f_t the features of the prompt's tokens and c_i the mean feature of concept i's own
tokens,

    M_i = max_t <f_t, c_i>,    psi = M^2 / ||M^2||_2,    delta W = sum_i psi_i delta W_i

The port: features are the states of the first text stream's tokens as a block reads them, each concept's learned
vectors among them, of unit length. They are taken once, at the noise from which sampling starts, and weigh that block's
layers at every step, so that the sum is a plain LoRA of summed rank. The released code takes the mean over a concept's
words, the fourth power and another norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from library.adapters.network import LayerWeights


def aggregation_weights(prompt: Tensor, concepts: Sequence[Tensor]) -> Tensor:
    """psi, (concepts,) float32; its squares sum up to 1.

    Args:
        prompt: features of the prompt's tokens, (T, D).
        concepts: features of each concept's own tokens, (T_i, D).
    """
    tokens = F.normalize(prompt.float(), dim=-1)
    means = torch.stack([F.normalize(one.float().mean(0), dim=-1) for one in concepts])
    closeness = (tokens @ means.T).max(0).values.clamp_min(0).square()
    return closeness / closeness.norm().clamp_min(torch.finfo(closeness.dtype).tiny)


def aggregated(layers: Sequence[LayerWeights], weights: Sequence[float]) -> LayerWeights:
    """sum_i psi_i delta W_i of one layer, as a LoRA whose rank is the sum of the ranks; alpha is its rank."""
    down = torch.cat([layer.down.float() for layer in layers])
    scaled = zip(layers, weights, strict=True)
    up = torch.cat([weight * layer.alpha / layer.rank * layer.up.float() for layer, weight in scaled], dim=1)
    return LayerWeights(down, up, float(len(down)))
