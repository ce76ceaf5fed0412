"""A LoRA with DreamBooth's prior preservation: plain flow matching, also on pictures of the class.

Ruiz et al., DreamBooth (arXiv 2208.12242), Eq. 2, as in diffusers' and kohya's scripts for a LoRA. The pretrained
model draws the class pictures from "a photo of a {class}", unless there are regularisation pictures (is_reg), which
replace them.

The port: class pictures are `replay_images`, with as many per step as pictures of the concept. The authors' captions
are just "a [class]"; ours come from `replay_prompts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from library.config.settings import Settings
from library.methods.lora import concept
from library.methods.method import Method, register
from library.methods.reads import REPLAYED, RIVAL

if TYPE_CHECKING:
    from library.objectives import Objective, Term

CLASS_PROMPTS = str(Path(__file__).parents[1] / "config" / "class_prompts.txt")
"""What class pictures are drawn from."""


def prior(settings: Settings, has_reg: bool) -> tuple[str, float, Term]:
    """The loss on class pictures; regularisation pictures are already in the concept loss, with their weight."""
    from library.objectives import ConceptTerm, concept_error
    from library.predictions import REPLAY, STUDENT, learned

    pure = settings.pure_learning
    weight = pure.prior_loss_weight if pure.replay_images and not has_reg else None
    return ("prior", weight or 0.0, ConceptTerm(learned(STUDENT, REPLAY), concept_error(settings.loss)))


def objective(settings: Settings, has_reg: bool) -> Objective:
    """L_CC + prior_loss_weight ||(x'_1 - x'_0) - v(x'_t | y_class)||^2."""
    from library.objectives import Objective

    return Objective(concept(settings), prior(settings, has_reg))


register(
    Method(
        name="prior_preservation",
        trains="a LoRA on your images and on class images from the pretrained model",
        reads=RIVAL | REPLAYED,
        defaults={"prior_loss_weight": 1.0, "replay_prompts": CLASS_PROMPTS},
        student=objective,
    )
)
