"""How similar vectors and sets of vectors are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_cosine(one: Tensor, other: Tensor) -> Tensor:
    """Mean cosine of every row of one with every row of the other, (N, D) and (M, D)."""
    return (F.normalize(one, dim=1) @ F.normalize(other, dim=1).T).mean()


def kid(one: Tensor, other: Tensor) -> float:
    """Kernel Inception distance: the unbiased estimate of the squared MMD with the kernel (x . y / D + 1)^3.

    Binkowski et al., 2018, over all pictures at once instead of means over subsets. It may be below 0.

    Args:
        one, other: features, (N, D) and (M, D), two rows or more each.
    """
    x, y = one.double(), other.double()
    xx, yy, xy = (((a @ b.T) / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * torch.mean(xy))
