"""How an error of the velocity counts in the concept loss: squared, or gentler with large errors, as in sd-scripts.

Only L_CC asks here. lambda* is a least-squares fit (PureCC, Eq. 12), and L_PureCC equals what is not parallel to the
guidance because it is squared; ties to the pretrained model don't fit the user's pictures. All of these stay mse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from library.flow import mean_over_places, mse


@dataclass(frozen=True)
class ConceptError:
    """The error of each image, by the kind of loss.

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
            emphasis: how much each place counts, (B, 1, H, W).
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
