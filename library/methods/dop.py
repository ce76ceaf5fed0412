"""Differential output preservation: the prediction for the base prompt stays the pretrained model's.

As in ai-toolkit (`diff_output_preservation`, weight `diff_output_preservation_multiplier`) and sd-scripts
(`custom_attributes.diff_output_preservation`): the same noisy picture, the trigger replaced by the class word, the
prediction without the LoRA as the target.

The port: the weight is `anchor_weight`, since PureCC's anchor is the same term; the base prompt is the caption without
[V], which for "[V] dog" is the same as the trigger replaced by the class word.
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
    from library.objectives import BASE, PRETRAINED, STUDENT, Objective, TieTerm, given, learned

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
