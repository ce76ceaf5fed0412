"""Rectified flow: the straight line between an image and noise, and how far along it a step looks.

`sigma` is 0 for the image and 1 for noise, float32, shape (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS_OVER_ALL = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Noise levels at which something is looked at all along the way from image to noise."""


def interpolate(image: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_t = (1 - sigma) image + sigma noise, per image (PureCC, Eq. 1).

    Args:
        image, noise: latents, (B, C, H, W).
        sigma: (B,).
    """
    sigma = sigma.view(-1, 1, 1, 1)
    return (1 - sigma) * image + sigma * noise


def velocity_target(image: Tensor, noise: Tensor) -> Tensor:
    """The velocity that a perfect model returns: noise - image, (B, C, H, W) (PureCC, Eq. 2)."""
    return noise - image


def mse(prediction: Tensor, goal: Tensor, emphasis: Tensor | None = None) -> Tensor:
    """Mean squared error of each image over all its channels and pixels: (B, C, H, W) twice -> (B,), float32.

    Args:
        emphasis: how much each place counts, (B, 1, H, W); the mean is still over all places.
    """
    return mean_over_places((prediction.float() - goal.float()).square(), emphasis)


def mean_over_places(values: Tensor, emphasis: Tensor | None = None) -> Tensor:
    """(B, C, H, W) -> (B,). See `mse` for the emphasis."""
    return (values if emphasis is None else values * emphasis).flatten(1).mean(1)


def draw_sigma(
    count: int,
    scheme: str,
    generator: torch.Generator,
    *,
    logit_mean: float = 0.0,
    logit_std: float = 1.0,
    mode_scale: float = 1.29,
    shift: float = 1.0,
    least: float = 0.0,
    most: float = 1.0,
) -> Tensor:
    """Noise levels of `count` images, (count,), float32, on the CPU.

    Args:
        scheme: "logit_normal", "mode" or "uniform": the density they are drawn from.
        shift: moves them towards noise: sigma -> shift sigma / (1 + (shift - 1) sigma). 1 leaves them.
        least, most: the range that all of it is brought into.
    """
    from diffusers.training_utils import compute_density_for_timestep_sampling  # slow to import, needed here alone

    sigma = compute_density_for_timestep_sampling(
        scheme, count, logit_mean, logit_std, mode_scale, device="cpu", generator=generator
    )
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    return least + (most - least) * sigma
