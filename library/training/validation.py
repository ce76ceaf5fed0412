"""The validation loss: the student's concept loss on pictures held out from training, always with the same noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from library.chance import generator_for
from library.config.settings import Settings
from library.data.latents import Latents
from library.data.pictures import Draw, Picture
from library.dual_branch_scheduler import Branch
from library.flow import LEVELS_OVER_ALL, interpolate, velocity_target
from library.models.interface import PromptBatch
from library.objectives import concept_error
from library.parts.parts import Attached


class ValidationLoss:
    """Measures a branch on the validation pictures.

    Args:
        pictures: held out by `split_validation`, with prepared latents and texts.
        batches_per_epoch: how often it is due, if the settings don't say.
    """

    def __init__(
        self, latents: Latents, pictures: Sequence[Picture], settings: Settings, batches_per_epoch: int
    ) -> None:
        samples = settings.samples
        self.latents = latents
        self.seed = settings.optimizer.seed
        self.error = concept_error(settings.loss)
        self.pictures = list(pictures)[: samples.max_validation_steps]
        self.every = samples.validate_every_n_steps or max(
            1, batches_per_epoch // settings.optimizer.gradient_accumulation_steps
        )

    def due(self, step: int, last: int) -> bool:
        """Whether to measure it after this step."""
        return bool(self.pictures) and (step % self.every == 0 or step == last)

    @torch.no_grad()
    def of(self, parts: Attached, branch: Branch) -> float:
        """The branch's mean velocity error over pictures and noise levels; errors and masks count as in training."""
        total = 0.0
        for number, picture in enumerate(self.pictures):
            image = self.latents.mean(picture)[None].expand(len(LEVELS_OVER_ALL), -1, -1, -1)
            noise = torch.randn(image.shape, generator=generator_for(self.seed, "validation", number))
            sigma, prompt = torch.tensor(LEVELS_OVER_ALL), parts.texts[picture.prompts[0].complete]
            prompts = PromptBatch.of([prompt] * len(LEVELS_OVER_ALL), [picture.concept.name] * len(LEVELS_OVER_ALL))
            velocity = parts.velocity(branch, interpolate(image, noise, sigma), sigma, [prompts]).cpu()
            emphasis = self.latents.emphasis([Draw(picture, picture.prompts[0], mirrored=False)])
            total += float(self.error(velocity, velocity_target(image, noise), sigma, emphasis).mean())
        return total / len(self.pictures)
