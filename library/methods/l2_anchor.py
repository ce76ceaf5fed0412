"""L2 anchor: flow matching, with a penalty that keeps the change of the weights small.

Preserve and Personalize (ICLR 2026) keeps a tuned model near the pretrained one by lambda ||theta - theta_0||^2.

The port: a LoRA's change is the product, so the penalty is l2_anchor_weight times the sum over layers of
||delta W||_F^2. The LoRA's own matrices don't measure it: one starts random, the other at 0. With `dreambooth`, the
same setting applies to whole weights, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from library.config.fields import setting
from library.config.settings import Settings
from library.methods.lora import objective
from library.methods.method import Method, PenaltyTerm, register
from library.methods.reads import RIVAL


@dataclass(frozen=True, kw_only=True)
class L2AnchorSettings:
    """Settings of the L2 anchor."""

    l2_anchor_weight: float = setting(
        0.001, "l2_anchor: weight of the squared length of the change of all trained weights.", at_least=0
    )


def penalties(settings: Settings) -> list[PenaltyTerm]:
    """l2_anchor_weight ||delta W||_F^2."""
    from library.adapters.penalties import SquaredChange

    weight = settings.of_method(L2AnchorSettings).l2_anchor_weight
    return [PenaltyTerm("l2_anchor", weight, lambda student: SquaredChange(student.layers))]


register(
    Method(
        name="l2_anchor",
        trains="a LoRA on your images with a small change of the weights",
        reads=RIVAL,
        own=L2AnchorSettings,
        student=objective,
        penalties=penalties,
    )
)
