"""Seg-Cons: how similar the layouts of two pictures are, from the regions that a segmenter finds in each."""

from __future__ import annotations

import torch
from torch import Tensor

DEFINITION = "bestmatch-v1"
"""Written beside every Seg-Cons: another rule gives other numbers."""


def seg_cons(one: Tensor, other: Tensor) -> float | None:
    """Seg-Cons of a pair of pictures, 0 to 100: 100 where both have the same regions.

        d(A -> B) = mean over A's masks of the largest IoU with any mask of B
        Seg-Cons  = 100 (d(A -> B) + d(B -> A)) / 2

    The paper names the measure and gives no formula; this one is ours.

    Args:
        one, other: masks, (K, H, W) and (M, H, W) bool; empty masks do not count.

    Returns:
        0 where one picture has no region, None where neither has any.
    """
    one, other = _not_empty(one), _not_empty(other)
    if not len(one) and not len(other):
        return None
    if not len(one) or not len(other):
        return 0.0
    iou = pairwise_iou(one, other)
    return float(100 * (iou.amax(1).mean() + iou.amax(0).mean()) / 2)


def best_match_iou(one: Tensor, other: Tensor) -> float:
    """The one-sided half of Seg-Cons: each mask of one picture with the mask of the other that fits it best, the mean.

    Args:
        one, other: (K, H, W) and (M, H, W) bool; `one` has at least one mask that is not empty.
    """
    return float(pairwise_iou(_not_empty(one), other).amax(1).mean())


def pairwise_iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of each mask with each, (K, M), 0 for two empty ones."""
    a, b = one.flatten(1).float(), other.flatten(1).float()
    both = a @ b.T
    either = a.sum(1, keepdim=True) + b.sum(1) - both
    return both / either.clamp_min(1)


def masks_of(labels: Tensor, count: int) -> Tensor:
    """A label map, (H, W), as masks, (count, H, W) bool."""
    return torch.stack([labels == label for label in range(count)])


def _not_empty(masks: Tensor) -> Tensor:
    return masks[masks.flatten(1).any(1)] if len(masks) else masks
