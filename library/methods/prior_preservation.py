"""A LoRA with DreamBooth's prior preservation: plain flow matching on pictures of the class beside it.

Ruiz et al., DreamBooth (arXiv 2208.12242), Eq. 2, as diffusers' and kohya's scripts have it for a LoRA. The pretrained
model draws the class pictures itself from "a photo of a {class}", unless there are regularisation pictures (is_reg),
which then take their place.

The port: class pictures are `replay_images`, as many to a step as pictures of the concept; the authors' captions are
"a [class]" alone, ours are whatever `replay_prompts` holds.
"""

from __future__ import annotations

from library.config.settings import Settings
from library.methods.lora import concept
from library.methods.method import Method
from library.objectives import REPLAY, STUDENT, ConceptTerm, Objective, Term, concept_error, learned


def prior(settings: Settings, has_reg: bool) -> tuple[str, float, Term]:
    """The loss on class pictures; regularisation pictures are in the concept loss already, with their weight."""
    pure = settings.pure_learning
    weight = pure.prior_loss_weight if pure.replay_images and not has_reg else None
    return ("prior", weight or 0.0, ConceptTerm(learned(STUDENT, REPLAY), concept_error(settings.loss)))


def objective(settings: Settings, has_reg: bool) -> Objective:
    """L_CC + prior_loss_weight ||(x'_1 - x'_0) - v(x'_t | y_class)||^2."""
    return Objective(concept(settings), prior(settings, has_reg))


METHOD = Method(objective)
