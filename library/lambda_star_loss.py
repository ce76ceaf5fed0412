"""The lambda* loss: concept guidance, the scale that fits it to the student, and the remainder.

Everything here is computed per image in float32, in any precision of the model: R is a small difference of large
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from library.flow import mse

NOISE_LEVEL = 1e-3
"""Guidance shorter than this share of the velocity is rounding noise of half precision, not a direction."""


def concept_guidance(v_target: Tensor, v_against: Tensor) -> Tensor:
    """R(target): what the concept makes the frozen extractor add to a picture.

        R(y_tar) = v_extractor(x_t | y_tar) - v_extractor(x_t | against)             PureCC, Eq. 8

    Args:
        v_target: the extractor's velocity for the target prompt, (B, C, H, W).
        v_against: for the empty prompt (the paper) or for the class without [V] (ours).

    Returns:
        (B, C, H, W), float32, no gradient.
    """
    return v_target.detach().float() - v_against.detach().float()


def lambda_star(v_complete: Tensor, v_base: Tensor, r_tar: Tensor) -> Tensor:
    """The scale that brings v_base + lambda * R(target) closest to v_complete, image by image.

        lambda* = <v_complete - v_base, R> / <R, R>                                  PureCC, Eq. 12

    The gradient of the pure loss is the same with lambda* detached or not, since lambda* minimises that loss.

    Args:
        v_complete, v_base: the student's velocities, (B, C, H, W).
        r_tar: concept guidance R(target), same shape.

    Returns:
        (B, 1, 1, 1), float32, no gradient; 0 where the guidance is below the noise of the predictions.
    """
    gap = (v_complete.detach().float() - v_base.detach().float()).flatten(1)
    r = r_tar.detach().float().flatten(1)
    r_squared = r.square().sum(1)
    noise = NOISE_LEVEL**2 * v_base.detach().float().flatten(1).square().sum(1)
    floor = noise.clamp_min(torch.finfo(torch.float32).tiny)
    scale = (gap * r).sum(1) / torch.maximum(r_squared, floor)
    return torch.where(r_squared > floor, scale, 0.0).view(-1, 1, 1, 1)


@dataclass(frozen=True)
class FixedScale:
    """One number for every image. It also pulls along R, so it is a different method, which the paper ablates."""

    value: float

    def __call__(self, v_complete: Tensor, v_base: Tensor, r_tar: Tensor) -> Tensor:
        """(B, 1, 1, 1), float32."""
        return torch.full((len(r_tar), 1, 1, 1), self.value, device=r_tar.device)


def pure_loss(v_complete: Tensor, v_original: Tensor, scale: Tensor, r_tar: Tensor) -> Tensor:
    """L_PureCC of each image: how far the student is from the original plus scaled concept guidance.

        v_PureCC = v_original + lambda R(y_tar)                                      PureCC, Eq. 13
        L_PureCC = ||v_PureCC - v_complete||^2                                       PureCC, Eq. 14

    With lambda* it equals ||R_s||^2 (1 - cos^2(R_s, R_t)): only what is not parallel to the guidance costs.

    Args:
        v_complete: the student's velocity for the complete prompt, (B, C, H, W).
        v_original: for the base prompt; its gradient, if it has one, is used.
        scale: lambda, (B, 1, 1, 1).
        r_tar: concept guidance, (B, C, H, W).

    Returns:
        (B,), float32, the mean over channels and pixels.
    """
    return mse(v_complete, v_original.float() + scale * r_tar)


def measure_guidance(v_complete: Tensor, v_base: Tensor, r_tar: Tensor) -> dict[str, Tensor]:
    """Measures to watch in training, each (B,), float32, no gradient.

    Returns:
        lambda_star, the cosine between the learned R_s = v_complete - v_base and R_t, and the lengths of R_s and R_t as
        shares of the velocity's. The cosine is 0 where one of the two is.
    """
    v_complete, v_base = v_complete.detach().float().flatten(1), v_base.detach().float().flatten(1)
    r_student, r_target = v_complete - v_base, r_tar.detach().float().flatten(1)
    length = v_base.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return {
        "lambda_star": lambda_star(v_complete, v_base, r_target).flatten(),
        "cosine": torch.cosine_similarity(r_student, r_target, dim=1),
        "r_student": r_student.norm(dim=1) / length,
        "r_target": r_target.norm(dim=1) / length,
    }
