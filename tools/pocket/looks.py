"""Compares pictures with drawings: how sharp edges are, how far apart the two sets are, what the autoencoder loses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

STEEPEST = 20
"""An edge is where the brightness changes most: one in N pixels."""


def enlarged(pictures: Tensor, side: int) -> Tensor:
    """Pictures (N, 3, any, any) resized to `side` x `side` pixels, bicubically; in -1..1."""
    if pictures.shape[-1] == side:
        return pictures
    return F.interpolate(pictures, size=(side, side), mode="bicubic", antialias=True).clamp(-1, 1)


def steepness(pictures: Tensor) -> float:
    """The mean change of brightness from pixel to pixel at the edges of pictures (N, 3, H, W)."""
    grey = pictures.float().mean(1)
    across, down = grey.diff(dim=2)[:, :-1], grey.diff(dim=1)[:, :, :-1]
    steps = (across.square() + down.square()).sqrt().flatten(1)
    return steps.topk(max(1, steps.shape[1] // STEEPEST), dim=1).values.mean().item()


def frechet(one: Tensor, other: Tensor) -> float:
    """Fréchet distance of two sets of features, (N, D) and (M, D), between their fitted normal distributions."""
    means, spreads = zip(*((rows.double().mean(0), rows.double().T.cov()) for rows in (one, other)), strict=True)
    common = torch.linalg.eigvals(spreads[0] @ spreads[1]).real.clamp_min(0).sqrt().sum()
    apart = (means[0] - means[1]).square().sum()
    return (apart + spreads[0].trace() + spreads[1].trace() - 2 * common).item()


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, pictures: Tensor, batch: int = 16) -> Tensor:
    """Pictures (N, 3, side, side), in -1..1, after encoder and decoder."""
    parts = [vae.decode(vae.encode(part).latent_dist.mean).sample for part in pictures.split(batch)]
    return torch.cat(parts).clamp(-1, 1)


def signal_to_noise(made: Tensor, pictures: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, the mean over pictures in -1..1."""
    errors = ((made - pictures) / 2).square().mean((1, 2, 3)).clamp_min(1e-10)
    return (-10 * errors.log10()).mean().item()
