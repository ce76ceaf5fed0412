"""Direct consistency optimisation: learns a picture only until the LoRA does better on it than the pretrained model.

Lee et al., Direct Consistency Optimization (arXiv 2402.12004): prefers the picture to what the pretrained
model would have drawn, by the loss of direct preference optimisation.

    L = -log sigmoid(-beta (||u - v(x_t | y)||^2 - ||u - v_pretrained(x_t | y)||^2)),   u = x_1 - x_0

The port: predicted noise becomes velocity, whose squared error is the noise's over (1 - sigma)^2. The mean of
(1 - sigma)^2 is 0.29 over the noise levels of training, so the authors' 1000 to 2000 for SDXL's noise become about 300
to 600. On the small model errors fall much further, and beta must be smaller (docs/explanation/rivals.md). The loss is
computed per picture, as in their equation; their script uses the batch's mean. The pretrained model reads the same
prompt, as in their script when no token is learned. Their reward guidance is a way to sample; use the LoRA's strength.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.config.fields import setting
from library.config.settings import Settings
from library.methods.method import Method, register
from library.methods.reads import LOSS, RIVAL

if TYPE_CHECKING:
    from torch import Tensor

    from library.objectives import Objective
    from library.predictions import Reading, Velocities


@dataclass(frozen=True, kw_only=True)
class DCOSettings:
    """Settings of DCO."""

    dco_beta: float = setting(
        300.0,
        "dco: preference strength. Higher values stop learning an image sooner once the student beats the base model.",
        above=0,
    )


@dataclass(frozen=True)
class PreferenceTerm:
    """-log sigmoid(-beta (error of the student - error of the pretrained model)), divided by beta / 2.

    The division makes its gradient at a fresh LoRA that of flow matching for any beta, so the same learning rates work.
    """

    beta: float
    student: Reading
    pretrained: Reading

    @property
    def readings(self) -> tuple[Reading, ...]:
        """Both predictions."""
        return (self.student, self.pretrained)

    def __call__(self, v: Velocities) -> Tensor:
        """The loss of each image, (B,), float32."""
        from torch.nn.functional import logsigmoid

        from library.flow import mse

        truth = v.truth(self.student)
        gain = mse(v[self.student], truth.target, truth.emphasis) - mse(
            v[self.pretrained], truth.target, truth.emphasis
        )
        return -logsigmoid(-self.beta * gain) / (self.beta / 2)


def preference(beta: float) -> PreferenceTerm:
    """The term that prefers the student's prediction for the pictures to the pretrained model's."""
    from library.predictions import COMPLETE, PRETRAINED, STUDENT, given, learned

    return PreferenceTerm(beta, learned(STUDENT, COMPLETE), given(PRETRAINED, COMPLETE))


def objective(settings: Settings, has_reg: bool) -> Objective:
    """The preference for the pictures."""
    from library.objectives import Objective

    return Objective(("concept", 1.0, preference(settings.of_method(DCOSettings).dco_beta)))


register(
    Method(
        name="dco",
        trains="a LoRA on your images that stops learning an image once it beats the pretrained model",
        reads=RIVAL - LOSS,
        own=DCOSettings,
        student=objective,
    )
)
