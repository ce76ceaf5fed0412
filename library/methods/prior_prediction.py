"""Prior prediction: on other pictures, the pretrained model's own prediction is the target.

OneTrainer's concept type PRIOR_PREDICTION. Pictures of the concept are learned by flow matching. For all others the
target is the prediction without the LoRA for the same noisy picture and prompt.

The port: the others are regularisation pictures (is_reg) and pictures with dropped captions. Without any, the
pretrained model draws pictures (`replay_images`), with weight `replay_weight`. OneTrainer's
masked_prior_preservation_weight, which does the same outside a mask, is not included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.config.settings import Settings
from library.methods.lora import concept
from library.methods.method import Method, register
from library.methods.reads import REPLAYED, RIVAL

if TYPE_CHECKING:
    from torch import Tensor

    from library.objectives import ConceptTerm, Objective
    from library.predictions import Reading, Velocities


@dataclass(frozen=True)
class ConceptOrPrior:
    """The concept loss if the prompt names the concept, otherwise `weight` ||v(x_t | y) - v_pretrained(x_t | y)||^2.

    Masks only affect the concept loss.
    """

    weight: float
    concept: ConceptTerm
    pretrained: Reading

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The student's prediction and the pretrained model's."""
        return (self.concept.complete, self.pretrained)

    def __call__(self, v: Velocities) -> Tensor:
        """The loss of each image, (B,), float32."""
        import torch

        from library.flow import mse

        loss, shown = self.concept(v), v.truth(self.pretrained).shows_concept
        if shown is None:
            return loss
        return torch.where(shown, loss, self.weight * mse(v[self.concept.complete], v[self.pretrained]))


def objective(settings: Settings, has_reg: bool) -> Objective:
    """L_CC on the concept's pictures; on others, the target is the pretrained model's prediction."""
    from library.objectives import Objective, TieTerm
    from library.predictions import COMPLETE, PRETRAINED, REPLAY, STUDENT, given, learned

    pure = settings.pure_learning
    on_others = 1.0 if pure.prior_loss_weight is None else pure.prior_loss_weight
    replay = pure.replay_weight if pure.replay_images and not has_reg else 0.0
    tie = TieTerm(learned(STUDENT, REPLAY), given(PRETRAINED, REPLAY))
    name, weight, on_concept = concept(settings)
    on_pictures = ConceptOrPrior(on_others, on_concept, given(PRETRAINED, COMPLETE))
    return Objective((name, weight, on_pictures), ("replay", replay, tie))


register(
    Method(
        name="prior_prediction",
        trains="a LoRA on your images and on the pretrained model's own predictions for other images",
        reads=RIVAL | REPLAYED | {"replay_weight"},
        defaults={"replay_weight": 1.0},
        student=objective,
        ties_others=True,
    )
)
