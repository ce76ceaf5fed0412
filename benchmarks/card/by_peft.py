"""A plain LoRA step as diffusers' own training script makes it, by PEFT, on the same model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from library.models.loading.weights import fill
from library.models.modules import blank
from library.objectives import COMPLETE

if TYPE_CHECKING:
    from library.training.run import Run

TARGETS = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"]
TARGETS += ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"]
"""The layers that diffusers' script for Stable Diffusion 3 gives a LoRA."""


def peft_step(run: Run) -> Callable[[], None]:
    """A step of it, on the first batch of a prepared run; with gradient checkpointing where the run has it.

    Raises:
        ImportError: PEFT is not there.
    """
    from peft import LoraConfig

    model, settings = run.parts.model, run.settings
    transformer = fill(
        blank("transformer", model.transformer_config), model.files.weights("transformer"), model.dtype, model.device
    )
    rank = settings.network.network_dim
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS))
    learning = [one for one in transformer.parameters() if one.requires_grad]
    for one in learning:
        one.data = one.data.float()
    if settings.model.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    transformer.train()
    optimizer = torch.optim.AdamW(learning, settings.optimizer.learning_rate)
    scene = run.student_stage().scenes.reference(0)
    prompts, truth = scene.prompts[COMPLETE], scene.truth(model.device)
    device, dtype = model.device, model.dtype

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            (velocity,) = transformer(
                hidden_states=scene.x_t.to(device, dtype),
                timestep=scene.sigma.to(device) * model.scheduler_config["num_train_timesteps"],
                encoder_hidden_states=prompts.context.to(device, dtype),
                pooled_projections=prompts.pooled.to(device, dtype),
                return_dict=False,
            )
        nn.functional.mse_loss(velocity.float(), truth.target).backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
