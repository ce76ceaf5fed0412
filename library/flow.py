"""Rectified flow: the straight line between an image and noise, the noise levels of steps, and how errors count.

`sigma` is 0 for the image and 1 for noise, float32, shape (B,).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
        emphasis: weight of each place, (B, 1, H, W); the mean is still over all places.
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
        scheme: the density to draw from, "logit_normal", "mode" or "uniform".
        shift: moves them towards noise: sigma -> shift sigma / (1 + (shift - 1) sigma). 1 changes nothing.
        least, most: the range that the levels are rescaled to.
    """
    from diffusers.training_utils import compute_density_for_timestep_sampling  # slow to import, needed only here

    sigma = compute_density_for_timestep_sampling(
        scheme, count, logit_mean, logit_std, mode_scale, device="cpu", generator=generator
    )
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    return least + (most - least) * sigma


@dataclass(frozen=True)
class ConceptError:
    """The error of each image, by the kind of loss: squared, or less sensitive to large errors, as in sd-scripts.

    Only L_CC uses this. All other losses stay mse: lambda* is a least-squares fit (PureCC, Eq. 12), L_PureCC equals
    what is not parallel to the guidance only because it is squared, and ties to the pretrained model don't fit the
    user's pictures.


        l2          e^2
        l1          |e|
        huber       2 d (sqrt(e^2 + d^2) - d)       e^2 for small e, 2 d |e| for large
        smooth_l1   2 (sqrt(e^2 + d^2) - d)         the same divided by d: e^2 / d, and 2 |e|

    with e = v - (noise - image), and the threshold d at noise level sigma

        constant     scale c
        exponential  scale c^sigma
        snr          scale ((1 - c) (1 - sigma)^2 + c)

    The last is sd-scripts' (1 - c) / (1 + noise / image)^2 + c, of which it has no case for this model, with the flow's
    own ratio of noise to image, sigma / (1 - sigma).

    Args:
        c, scale: above 0.
    """

    kind: Literal["l2", "l1", "huber", "smooth_l1"] = "l2"
    schedule: Literal["constant", "exponential", "snr"] = "snr"
    c: float = 0.1
    scale: float = 1.0

    def __call__(self, prediction: Tensor, goal: Tensor, sigma: Tensor, emphasis: Tensor | None) -> Tensor:
        """(B,), float32, the mean over channels and pixels.

        Args:
            prediction, goal: velocities, (B, C, H, W).
            sigma: noise levels, (B,).
            emphasis: weight of each place, (B, 1, H, W).
        """
        if self.kind == "l2":
            return mse(prediction, goal, emphasis)
        error = prediction.float() - goal.float()
        if self.kind == "l1":
            return mean_over_places(error.abs(), emphasis)
        threshold = self.threshold(sigma).view(-1, 1, 1, 1)
        # The same as sqrt(e^2 + d^2) - d, without the difference of two nearly equal numbers.
        rest = error.square() / ((error.square() + threshold.square()).sqrt() + threshold)
        return mean_over_places(2 * rest * (threshold if self.kind == "huber" else 1), emphasis)

    def threshold(self, sigma: Tensor) -> Tensor:
        """d of each image, (B,), float32."""
        sigma = sigma.float()
        schedules = {
            "constant": lambda: torch.full_like(sigma, self.c),
            "exponential": lambda: self.c**sigma,
            "snr": lambda: (1 - self.c) * (1 - sigma).square() + self.c,
        }
        return self.scale * schedules[self.schedule]()


SQUARED = ConceptError()
"""The paper's."""
