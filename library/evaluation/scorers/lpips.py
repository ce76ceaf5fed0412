"""LPIPS (Zhang et al., 2018), AlexNet, version 0.1: how different two pictures look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn

from library.evaluation.scorers.interface import Identity
from library.evaluation.scorers.pixels import as_tensor, in_batches
from library.evaluation.scorers.scorer_files import WEIGHTS, load_into, read_weights

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
TINY = 1e-10
"""Added to lengths, as in the authors' package."""
AT_ONCE = 8
LAYERS = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
"""AlexNet's convolutions: channels in and out, kernel, stride, padding."""
POOLED_BEFORE = (1, 2)


class Lpips(nn.Module):
    """Weighted squared differences of normalised AlexNet features, summed over five layers."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(*layer[:3], stride=layer[3], padding=layer[4]) for layer in LAYERS)
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(layer[1])) for layer in LAYERS)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """(N,) of pictures (N, 3, H, W) in -1 .. 1."""
        total = torch.zeros(len(one), device=one.device)
        for head, a, b in zip(self.heads, self._features(one), self._features(other), strict=True):
            total = total + ((a - b).square() * head.view(1, -1, 1, 1)).sum(1).mean((1, 2))
        return total

    def _features(self, x: Tensor) -> list[Tensor]:
        shift, scale = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        x, found = (x - shift) / scale, []
        for number, conv in enumerate(self.convs):
            if number in POOLED_BEFORE:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(conv(x))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + TINY))
        return found


class LpipsDistance:
    """LPIPS between pictures of equal size."""

    def __init__(self, identity: Identity, model: Lpips, device: torch.device) -> None:
        self.identity = identity
        self._model = model.to(device)
        self._device = device

    @torch.no_grad()
    def distance(self, one: Sequence[Image], other: Sequence[Image]) -> Tensor:
        """(N,)."""
        parts = []
        for some in in_batches(list(zip(one, other, strict=True)), AT_ONCE):
            a, b = (
                torch.stack([as_tensor(image) for image in side]).to(self._device) for side in zip(*some, strict=True)
            )
            parts.append(self._model(a, b).float().cpu())
        return torch.cat(parts)


def load_lpips(identity: Identity, folder: Path, device: torch.device) -> LpipsDistance:
    """From converts.convs and heads in one file."""
    file = folder / WEIGHTS
    return LpipsDistance(identity, load_into(Lpips(), read_weights(file), file), device)
