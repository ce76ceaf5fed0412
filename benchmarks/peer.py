"""A plain LoRA step as in diffusers' scripts: their transformer, PEFT's adapters, PyTorch's AdamW.

It has the same pictures, noise and prompts as our plain step, with the same layers and rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from library.flow import mse, velocity_target
from library.models.loading.weights import fill
from library.models.sd3.modules import blank
from library.predictions import COMPLETE

if TYPE_CHECKING:
    from library.training.run import Run
    from library.training.scenes import SceneMaker


class PeerRun:
    """Makes their steps.

    Args:
        run: one of ours, with its network; gives model, layers and settings.
        scenes: its inputs.

    Attributes:
        passes: predictions with and without gradient.
    """

    passes = "1 + 0"

    def __init__(self, run: Run, scenes: SceneMaker) -> None:
        from peft import LoraConfig

        model, network = run.parts.model, run.settings.network
        self.model, self.scenes, self.done = model, scenes, 0
        self.max_norm = run.settings.optimizer.max_grad_norm
        blank_one = blank("transformer", model.files.config("transformer"))
        self.transformer = fill(blank_one, model.files.weights("transformer"), model.dtype, model.device)
        self.transformer.add_adapter(
            LoraConfig(
                r=network.network_dim, lora_alpha=network.network_alpha, target_modules=list(run.parts.network.layers)
            )
        )
        self.transformer.to(model.device)
        if run.settings.model.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
            self.transformer.train()
        self.learning = [weight for weight in self.transformer.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learning, lr=run.settings.optimizer.learning_rate)

    def step(self) -> None:
        """A step on the next batch."""
        scene, device = self.scenes.reference(self.done), self.model.device
        prompts = scene.prompts[COMPLETE]
        (velocity,) = self.transformer(
            hidden_states=scene.x_t.to(device, self.model.dtype),
            timestep=1000 * scene.sigma.to(device),
            encoder_hidden_states=prompts.context.to(device, self.model.dtype),
            pooled_projections=prompts.pooled.to(device, self.model.dtype),
            return_dict=False,
        )
        mse(velocity.float(), velocity_target(scene.image, scene.noise).to(device)).mean().backward()
        nn.utils.clip_grad_norm_(self.learning, self.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
