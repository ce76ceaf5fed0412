"""A NaN or infinite loss: which pictures it comes from, and at which noise level."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from library.dual_branch_scheduler import Scene
from library.objectives import Losses
from library.report.log import ON_REPLAYED


class NotANumber(Exception):
    """A step's loss is NaN or infinite; its text says where."""


def describe(losses: Losses, reference: Scene, replay: Scene | None, shown: Sequence[str]) -> str:
    """Which terms of a loss are NaN or infinite, on which pictures, at which sigma.

    Args:
        shown: the picture file of each row of `reference`.
    """
    terms: dict[str, list[str]] = {}
    for name, values in losses.parts.items():
        for row in torch.nonzero(~torch.isfinite(values.detach().cpu())).flatten().tolist():
            if name in ON_REPLAYED and replay is not None:
                scene, what = replay, f"replayed image {row + 1} of the batch"
            else:
                scene, what = reference, shown[row]
            terms.setdefault(f"{what} at sigma {scene.sigma[row].item():.3f}", []).append(name)
    where = [f"on {place} ({', '.join(names)})" for place, names in terms.items()]
    return f"the loss is {losses.total.item()} {' and '.join(where)}".rstrip()
