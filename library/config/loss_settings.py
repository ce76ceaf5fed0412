"""[loss]: how errors of the velocity count in the concept loss, with sd-scripts' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from library.config.fields import setting


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """[loss]: how errors count in the concept loss; the pure loss and all ties stay squared."""

    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = setting(
        "l2",
        "Loss of the velocity error in the concept loss, also for regularisation and class images: squared "
        "(l2), absolute (l1), or squared up to a threshold and absolute beyond it (huber, smooth_l1).",
    )
    huber_schedule: Literal["constant", "exponential", "snr"] = setting(
        "snr",
        "huber, smooth_l1: threshold at each noise level. constant: huber_c everywhere. exponential and snr: "
        "from 1 without noise down to huber_c, as huber_c^sigma or by the ratio of noise to image.",
    )
    huber_c: float = setting(0.1, "huber, smooth_l1: threshold at pure noise.", above=0)
    huber_scale: float = setting(1.0, "huber, smooth_l1: factor for the threshold.", above=0)
