"""Elastic weight consolidation: protects the weights that the pretrained model's pictures depend on.

Kirkpatrick et al. 2017 (arXiv 1612.00796), Eq. 3: L + lambda / 2 sum_i F_i (theta_i - theta0_i)^2. PureCC's table has
"DreamBooth + EWC" without details; this is our definition. `dreambooth` has it too, with `ewc_lambda`.

The port:
* F is the Fisher information of a Gaussian on the velocity: E[(d <v(x_t | y), xi> / d theta)^2] with xi standard
  normal. So it needs no target and does not depend on the size of the residual.
* It is measured on the pretrained model's own distribution: `ewc_fisher_samples` noisy replayed pictures, one by one,
  since the square of a mean is not the mean of squares. The cache keeps it for each model and prompt list.
* It is divided by its mean over all weights involved, so that `ewc_lambda` means the same for any choice of layers.
* For a LoRA, the effective change delta W = scale up down counts. For the two matrices themselves F is meaningless:
  `up` starts at 0, so the pretrained model does not depend on `down` at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from library.config.fields import setting
from library.config.settings import Settings
from library.methods.lora import objective
from library.methods.method import Method, PenaltyTerm, register
from library.methods.reads import REPLAYED, RIVAL


@dataclass(frozen=True, kw_only=True)
class EWCSettings:
    """Settings of EWC."""

    ewc_lambda: float = setting(
        0.001, "ewc, and dreambooth if above 0: weight of elastic weight consolidation.", at_least=0
    )
    ewc_fisher_samples: int = setting(
        300, "Number of noisy replayed images used to estimate the Fisher information, once per model.", at_least=1
    )


def penalties(settings: Settings) -> list[PenaltyTerm]:
    """ewc_lambda / 2 sum F o delta W^2."""
    from library.adapters.penalties import FisherChange

    weight = settings.of_method(EWCSettings).ewc_lambda
    return [PenaltyTerm("ewc", weight, lambda student: FisherChange(student.layers, student.fisher), reads_fisher=True)]


register(
    Method(
        name="ewc",
        trains="a LoRA on your images that changes little where the pretrained model's images depend on the weights",
        reads=RIVAL | REPLAYED,
        own=EWCSettings,
        student=objective,
        penalties=penalties,
    )
)
