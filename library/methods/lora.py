"""A plain LoRA: flow matching on the pictures, as hobbyists train it.

Hu et al., LoRA (arXiv 2106.09685), on all attention layers, as diffusers' DreamBooth script does it. Only
the trigger word stands for the concept; the text encoders don't change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from library.config.settings import Settings
from library.methods.method import Method, register
from library.methods.reads import LORA, LOSS

if TYPE_CHECKING:
    from library.objectives import ConceptTerm, Objective


def concept(settings: Settings) -> tuple[str, float, ConceptTerm]:
    """The loss that all rivals share."""
    from library.objectives import ConceptTerm, concept_error
    from library.predictions import COMPLETE, STUDENT, learned

    return ("concept", 1.0, ConceptTerm(learned(STUDENT, COMPLETE), concept_error(settings.loss)))


def objective(settings: Settings, has_reg: bool) -> Objective:
    """||(x_1 - x_0) - v(x_t | y_complete)||^2."""
    from library.objectives import Objective

    return Objective(concept(settings))


register(
    Method(
        name="lora",
        trains="a LoRA on your images and nothing else",
        reads=LORA | LOSS,
        student=objective,
    )
)
