"""Stage 2 as in the authors' released script, rebuilt from its description, to be measured and counted.

Two whole transformers, T5, both CLIPs and a VAE in float32 are on the device all the time. Each step encodes the
picture and four prompts. The student, with PEFT's adapters, predicts for the complete and the base prompt, both with
gradient. The reference, there only the pretrained model, predicts for the target and the empty prompt. lambda is 1,
eta is 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from library.chance import generator_for
from library.data.images import fit, open_image
from library.flow import interpolate, mse, velocity_target
from library.models.family import FlowModel
from library.models.loading.weights import fill
from library.models.memory.counting import as_skeleton
from library.models.memory.live_memory import held_by
from library.models.memory.operations import META
from library.models.sd3.checkpoint_layouts import TEXT_ENCODERS
from library.models.sd3.modules import blank
from library.models.sd3.settings import ATTENTION
from library.prompts import NULL_PROMPT

if TYPE_CHECKING:
    from library.training.run import Run

ETA, LAMBDA = 2.0, 1.0
TARGETS = [f"attn.{name}" for name in ATTENTION]
"""Their attention layers, without a block's second attention."""
PROMPTS = 4
"""Complete, base, target and empty prompt."""


class AuthorsRun:
    """Their step on the pictures of a run, batch by batch.

    Attributes:
        passes: predictions with and without gradient.

    Args:
        run: one of ours; uses its pictures, captions and settings.
    """

    passes = "2 + 2"

    def __init__(self, run: Run) -> None:
        settings, model = run.settings, run.parts.model
        self.run, self.done = run, 0
        self.stage = AuthorsStep(model, settings.network.network_dim, settings.model.gradient_checkpointing)
        self.tokenizers = model.files.tokenizers()
        self.lengths = (model.clip_length, model.clip_length, model.t5_length)

    def step(self) -> None:
        """A step on the next batch."""
        draws = self.run.plan.order.batch(self.done)
        pixels = torch.stack([fit(open_image(draw.picture.path), draw.picture.size, draw.mirrored) for draw in draws])
        prompts = [draw.prompts for draw in draws]
        texts = [one.complete for one in prompts] + [one.base for one in prompts] + [one.target for one in prompts]
        texts += [NULL_PROMPT] * len(draws)
        generator = generator_for(self.run.settings.optimizer.seed, "authors", self.done)
        self.stage.step(pixels.to(self.stage.device), self._ids(texts), torch.rand(len(draws), generator=generator))
        self.done += 1

    def _ids(self, texts: list[str]) -> list[Tensor]:
        settings = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        each = zip(self.tokenizers, self.lengths, strict=True)
        return [tokenizer(texts, max_length=length, **settings).input_ids for tokenizer, length in each]


class AuthorsStep:
    """Makes their steps.

    Args:
        model: has the parts; on the meta device they have shapes but no values.
        rank: of the adapters.
        recomputed: with gradient checkpointing.
    """

    def __init__(self, model: FlowModel, rank: int, recomputed: bool) -> None:
        from peft import LoraConfig

        self.model, self.device = model, model.device
        self.encoders = [self._load(part, model.dtype) for part in TEXT_ENCODERS]
        self.vae = self._load("vae", torch.float32)
        self.reference, self.student = (self._load("transformer", model.dtype) for _ in range(2))
        config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS)
        self.student.add_adapter(config)
        self.student.to(self.device)
        if recomputed:
            self.student.enable_gradient_checkpointing()
            self.student.train()
        self.learning = [weight for weight in self.student.parameters() if weight.requires_grad]
        self.optimizer = None if self.device == META else torch.optim.AdamW(self.learning, lr=1e-4)

    def _load(self, part: str, dtype: torch.dtype) -> nn.Module:
        module = blank(part, self.model.files.config(part))
        if self.device == META:
            return as_skeleton(module, dtype)
        return fill(module, self.model.files.weights(part), dtype, self.device)

    def held(self) -> list[Tensor]:
        """Everything that is on the device between steps, except the optimizer."""
        return [
            tensor for module in (*self.encoders, self.vae, self.reference, self.student) for tensor in held_by(module)
        ]

    def step(self, pixels: Tensor, ids: Sequence[Tensor], sigma: Tensor) -> None:
        """One step.

        Args:
            pixels: (B, 3, H, W).
            ids: tokens of the four prompts of each picture for each encoder, (4 B, tokens).
            sigma: noise levels, (B,).
        """
        sigma, ids = sigma.to(self.device), [one.to(self.device) for one in ids]
        with torch.no_grad():
            image = self.vae.encode(pixels).latent_dist.sample()
            context, pooled = self._encode(ids)
        complete, base, target, null = zip(context.chunk(PROMPTS), pooled.chunk(PROMPTS), strict=True)
        noise = torch.randn_like(image)
        x_t = interpolate(image, noise, sigma)
        with torch.no_grad():
            guidance = self._velocity(self.reference, x_t, sigma, target) - self._velocity(
                self.reference, x_t, sigma, null
            )
        v_complete = self._velocity(self.student, x_t, sigma, complete)
        v_base = self._velocity(self.student, x_t, sigma, base)
        concept = mse(v_complete, velocity_target(image, noise))
        loss = (concept + ETA * mse(v_complete, v_base + LAMBDA * guidance)).mean()
        loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def _encode(self, ids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        clips = [encoder(one, output_hidden_states=True) for encoder, one in zip(self.encoders[:2], ids, strict=False)]
        t5 = self.encoders[2](ids[2])[0]
        wide = torch.cat([clip.hidden_states[-2] for clip in clips], dim=-1)
        wide = nn.functional.pad(wide, (0, t5.shape[-1] - wide.shape[-1]))
        return torch.cat([wide, t5], dim=1), torch.cat([clip.text_embeds for clip in clips], dim=-1)

    def _velocity(self, transformer: nn.Module, x_t: Tensor, sigma: Tensor, prompts: tuple[Tensor, Tensor]) -> Tensor:
        context, pooled = prompts
        (velocity,) = transformer(
            hidden_states=x_t.to(self.model.dtype),
            timestep=1000 * sigma,
            encoder_hidden_states=context,
            pooled_projections=pooled,
            return_dict=False,
        )
        return velocity.float()
