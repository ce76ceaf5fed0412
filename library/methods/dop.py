"""Differential output preservation: keeps the prediction for the base prompt at the pretrained model's.

As in ai-toolkit (`diff_output_preservation`, weight `diff_output_preservation_multiplier`) and sd-scripts
(`custom_attributes.diff_output_preservation`): for the same noisy picture, with the class word in place
of the trigger, the target is the prediction without the LoRA.

The port: the weight is `anchor_weight`, since PureCC's anchor is the same term. The base prompt is the caption without
[V]; for "[V] dog" that equals replacing the trigger by the class word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from library.config.settings import Settings
from library.methods.lora import concept
from library.methods.method import Method, register
from library.methods.reads import RIVAL

if TYPE_CHECKING:
    from library.objectives import Objective


def objective(settings: Settings, has_reg: bool) -> Objective:
    """L_CC + anchor_weight ||v(x_t | y_base) - v_pretrained(x_t | y_base)||^2."""
    from library.objectives import Objective, TieTerm
    from library.predictions import BASE, PRETRAINED, STUDENT, given, learned

    tie = TieTerm(learned(STUDENT, BASE), given(PRETRAINED, BASE))
    return Objective(concept(settings), ("anchor", settings.pure_learning.anchor_weight, tie))


register(
    Method(
        name="dop",
        trains="a LoRA on your images that keeps the pretrained model's prediction for prompts without [V]",
        reads=RIVAL | {"anchor_weight"},
        defaults={"anchor_weight": 1.0},
        student=objective,
    )
)
