"""[loss]: how an error of the velocity counts in the concept loss, with sd-scripts' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from library.config.fields import setting


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """[loss]: how errors count in the concept loss; the pure loss and all ties stay squared."""

    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = setting(
        "l2",
        "How an error of the velocity counts in the concept loss, also on regularisation and class pictures: squared, "
        "by its size, or squared up to a threshold and by its size beyond.",
    )
    huber_schedule: Literal["constant", "exponential", "snr"] = setting(
        "snr",
        "huber, smooth_l1: where the threshold lies at each noise level. huber_c at all of them, or falling to it from "
        "1 at no noise: huber_c^sigma, or by the ratio of noise to image (sd-scripts has no snr for this model).",
    )
    huber_c: float = setting(0.1, "huber, smooth_l1: the threshold at pure noise.", above=0)
    huber_scale: float = setting(1.0, "huber, smooth_l1: what the threshold is multiplied with.", above=0)
