"""L2 anchor: flow matching, and the change of the weights is kept short.

Preserve and Personalize (ICLR 2026) keeps a tuned model near the pretrained one by lambda ||theta - theta_0||^2.

The port: of a LoRA, the change is the product, so the penalty is l2_anchor_weight times the sum over layers of
||delta W||_F^2. The LoRA's own matrices are no measure of it: one starts random, the other at 0. With `dreambooth`, the
same weight holds for whole weights, as in the paper.
"""

from __future__ import annotations

from library.config.settings import Settings
from library.methods.lora import objective
from library.methods.method import Method


def weights(settings: Settings) -> dict[str, float]:
    """l2_anchor_weight ||delta W||_F^2."""
    return {"l2_anchor": settings.method.l2_anchor_weight}


METHOD = Method(objective, penalties=weights)
