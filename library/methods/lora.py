"""A plain LoRA: flow matching on the pictures, what hobbyists train.

Hu et al., LoRA (arXiv 2106.09685), on the attention layers, as diffusers' DreamBooth script for SD3 does it. The
trigger word alone stands for the concept; the text encoders are left as they are.
"""

from __future__ import annotations

from library.config.settings import Settings
from library.methods.method import Method
from library.objectives import COMPLETE, STUDENT, ConceptTerm, Objective, concept_error, learned


def concept(settings: Settings) -> tuple[str, float, ConceptTerm]:
    """The loss that every rival here has."""
    return ("concept", 1.0, ConceptTerm(learned(STUDENT, COMPLETE), concept_error(settings.loss)))


def objective(settings: Settings, has_reg: bool) -> Objective:
    """||(x_1 - x_0) - v(x_t | y_complete)||^2."""
    return Objective(concept(settings))


METHOD = Method(objective)
