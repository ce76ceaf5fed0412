"""L2 anchor: flow matching, and the change of the weights is kept short.

Preserve and Personalize (ICLR 2026) keeps a tuned model near the pretrained one by lambda ||theta - theta_0||^2.

The port: of a LoRA, the change is the product, so the penalty is l2_anchor_weight times the sum over layers of
||delta W||_F^2. The LoRA's own matrices are no measure of it: one starts random, the other at 0.
"""

from __future__ import annotations

from library.config.settings import Settings
from library.methods.lora import objective
from library.methods.method import Method, Penalties
from library.methods.penalties import SquaredChange


def penalties(settings: Settings) -> Penalties:
    """l2_anchor_weight ||delta W||_F^2."""
    return (("l2_anchor", settings.method.l2_anchor_weight, SquaredChange),)


METHOD = Method(objective, penalties=penalties)
