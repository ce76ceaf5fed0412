"""Prior prediction: on other pictures, the pretrained model's own prediction is the target.

OneTrainer's concept type PRIOR_PREDICTION. Pictures of the concept are learned by flow matching; for all others the
prediction without the LoRA, for the same noisy picture and prompt, takes the place of the flow's velocity.

The port: the others are regularisation pictures (is_reg), and captions that were dropped; without any, the pretrained
model draws pictures (`replay_images`), with weight `replay_weight`. OneTrainer's
masked_prior_preservation_weight, which does the same outside of a mask, is not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from library.config.settings import Settings
from library.flow import mse
from library.methods.lora import concept
from library.methods.method import Method
from library.objectives import (
    COMPLETE,
    PRETRAINED,
    REPLAY,
    STUDENT,
    ConceptTerm,
    Objective,
    Reading,
    TieTerm,
    Velocities,
    given,
    learned,
)


@dataclass(frozen=True)
class ConceptOrPrior:
    """The concept loss where the prompt names the concept; elsewhere `weight` ||v(x_t | y) - v_pretrained(x_t | y)||^2.

    Masks take places out of the concept loss alone.
    """

    weight: float
    concept: ConceptTerm = ConceptTerm(learned(STUDENT, COMPLETE))
    pretrained: Reading = given(PRETRAINED, COMPLETE)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The student's prediction and the pretrained model's."""
        return (self.concept.complete, self.pretrained)

    def __call__(self, v: Velocities) -> Tensor:
        """The loss of each image, (B,), float32."""
        loss, shown = self.concept(v), v.truth(self.pretrained).shows_concept
        if shown is None:
            return loss
        return torch.where(shown, loss, self.weight * mse(v[self.concept.complete], v[self.pretrained]))


def objective(settings: Settings, has_reg: bool) -> Objective:
    """L_CC on the concept's pictures, the pretrained model's prediction as the target on others."""
    pure = settings.pure_learning
    on_others = 1.0 if pure.prior_loss_weight is None else pure.prior_loss_weight
    replay = pure.replay_weight if pure.replay_images and not has_reg else 0.0
    tie = TieTerm(learned(STUDENT, REPLAY), given(PRETRAINED, REPLAY))
    name, weight, on_concept = concept(settings)
    return Objective((name, weight, ConceptOrPrior(on_others, on_concept)), ("replay", replay, tie))


METHOD = Method(objective)
