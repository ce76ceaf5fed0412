"""Gradient fusion of Mix-of-Show: one update for several concepts, layer by layer, by least squares.

Gu et al. (arXiv 2305.18292), Eq. 5: the fused layer answers each concept's own inputs as that concept's LoRA does. With
C_i = E[x x^T] of the layer's inputs while concept i is drawn with its own LoRA, and C_0 the same for the pretrained
model on other prompts,

    sum_i tr((D - D_i) C_i (D - D_i)^T) + mu tr(D C_0 D^T) + eps ||D||^2

is what the fused update D minimises; mu = 0 is the published one, and mu is how much everything else counts (ours).
The authors minimise by LBFGS and get a whole checkpoint. But the minimum is known:

    D = sum_i B_i [A_i C_i M^-1],   M = sum_j C_j + mu C_0 + eps I      with D_i = B_i A_i

so every `up` stays, every `down` changes, and D is a plain LoRA whose rank is the sum of the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from library.adapters.network import LayerWeights

EPS = 1e-4
"""Weight of ||D||^2, as a share of the mean of M's diagonal: M must have an inverse."""


def _weighing(covariances: Sequence[Tensor], neutral: Tensor, mu: float) -> tuple[Tensor, float]:
    """M without its last term, float64, and eps."""
    total = sum(one.double() for one in covariances) + mu * neutral.double()
    return total, EPS * float(total.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny))


def fusion_loss(
    update: Tensor, layers: Sequence[LayerWeights], covariances: Sequence[Tensor], neutral: Tensor, mu: float
) -> Tensor:
    """What fusion minimises, () float64.

    Args:
        update: D, (out, in).
        layers: the layer's LoRA of each concept.
        covariances: C_i, (in, in) each. neutral: C_0.
    """
    _, eps = _weighing(covariances, neutral, mu)
    total = mu * ((update @ neutral.double()) * update).sum() + eps * update.square().sum()
    for layer, covariance in zip(layers, covariances, strict=True):
        off = update - layer.delta().double()
        total = total + ((off @ covariance.double()) * off).sum()
    return total


def fused(layers: Sequence[LayerWeights], covariances: Sequence[Tensor], neutral: Tensor, mu: float) -> LayerWeights:
    """The update that minimises `fusion_loss`, as a LoRA whose rank is the sum of the ranks; alpha is its rank."""
    total, eps = _weighing(covariances, neutral, mu)
    total = total + eps * torch.eye(len(total), dtype=total.dtype, device=total.device)
    factor = torch.linalg.cholesky(total)
    downs = [
        torch.cholesky_solve(covariance.double() @ layer.down.double().T.to(covariance.device), factor).T
        for layer, covariance in zip(layers, covariances, strict=True)
    ]
    ups = [layer.alpha / layer.rank * layer.up.float() for layer in layers]
    down, up = torch.cat(downs).float().cpu(), torch.cat(ups, dim=1)
    return LayerWeights(down, up, float(len(down)))


def fused_by_lbfgs(
    layers: Sequence[LayerWeights], covariances: Sequence[Tensor], neutral: Tensor, mu: float, steps: int = 50
) -> Tensor:
    """The same as published: LBFGS from the pretrained weight on (history 25, strong Wolfe), as a whole (out, in).

    Args:
        steps: iterations; the authors' 50 for attention layers.
    """
    update = torch.zeros(len(layers[0].up), layers[0].down.shape[1], dtype=torch.float64, requires_grad=True)
    means = (one.double().diagonal().mean() for one in covariances)
    scale = float(sum(means, torch.zeros(())).clamp_min(1e-30))
    optimizer = torch.optim.LBFGS(
        [update], lr=1.0, max_iter=steps, history_size=25, tolerance_grad=0, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = fusion_loss(update, layers, covariances, neutral, mu) / scale
        loss.backward()
        return loss

    optimizer.step(closure)
    return update.detach().float()
