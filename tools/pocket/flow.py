"""The flow model: an SD3 transformer and its three text encoders, small, trained together on cached latents."""

from __future__ import annotations

import contextlib
import random
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from library.flow import draw_sigma, interpolate, velocity_target
from tools.pocket.autoencoder import CHANNELS, SHRINKS
from tools.pocket.captions import training_caption
from tools.pocket.pictures import Pictures
from tools.pocket.stage import Stage, Workplace, autocast, train
from tools.pocket.tokenizers import END, LENGTH, START, clip_tokenizer, t5_tokenizer

HEAD = 64
"""Width of an attention head. As in SD 3 and 3.5, the model has as many heads as blocks."""
CLIP_WIDTH = 64
T5_WIDTH = 192
TIMESTEPS = 1000
CREATURES = 1 / 3
"""Share of a batch that is drawn from the creatures alone: they have more colours than anything else."""
PLAIN_UP_TO = 8
"""Latents along a side."""


@dataclass(frozen=True)
class Normalised:
    """Latents as the flow model sees them: mean 0, standard deviation 1.

    Attributes:
        latents: as the encoder returns them, (N, 16, side / 8, side / 8).
    """

    latents: Tensor
    shift: float
    scale: float

    def rows(self, rows: Tensor) -> Tensor:
        """Some rows, float32."""
        return (self.latents[rows].float() - self.shift) * self.scale


class TextToFlow(nn.Module):
    """Everything that trains together: `velocity` of noisy latents, given captions.

    Args:
        depth: blocks of the transformer, and its width in heads of 64.
        side: of the pictures, in pixels.
    """

    def __init__(self, depth: int, side: int) -> None:
        super().__init__()
        self.tokenizers = (clip_tokenizer(END), clip_tokenizer("!"), t5_tokenizer())
        self._known: dict[str, Tensor] = {}
        first = self.tokenizers[0]
        clip = CLIPTextConfig(
            vocab_size=len(first),
            hidden_size=CLIP_WIDTH,
            intermediate_size=3 * CLIP_WIDTH,
            projection_dim=CLIP_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=first.convert_tokens_to_ids(START),
            eos_token_id=first.convert_tokens_to_ids(END),
            pad_token_id=first.convert_tokens_to_ids(END),
        )
        self.text_encoder = CLIPTextModelWithProjection(clip)
        self.text_encoder_2 = CLIPTextModelWithProjection(clip)
        # As in SD 3's own CLIP-L, whose pooled state some programs read before this projection and some after it.
        nn.init.eye_(self.text_encoder.text_projection.weight).requires_grad_(False)
        self.text_encoder_3 = T5EncoderModel(
            T5Config(
                vocab_size=len(self.tokenizers[2]),
                d_model=T5_WIDTH,
                d_kv=32,
                d_ff=2 * T5_WIDTH,
                num_layers=2,
                num_heads=6,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
            )
        )
        self.transformer = SD3Transformer2DModel(
            sample_size=side // SHRINKS,
            patch_size=2,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=depth,
            num_attention_heads=depth,
            attention_head_dim=HEAD,
            caption_projection_dim=HEAD * depth,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=2 * CLIP_WIDTH,
            pos_embed_max_size=side // SHRINKS,
            dual_attention_layers=(0, 1),
            qk_norm="rms_norm",
        )

        _start_still(self.transformer)

    def encode(self, captions: list[str], device: str) -> tuple[Tensor, Tensor]:
        """Context (B, 32, 192) and pooled state (B, 128) of captions, as in `StableDiffusion3Pipeline`."""
        clip, clip_2, t5 = self._tokens(captions).to(device)
        one = self.text_encoder(clip, output_hidden_states=True)
        two = self.text_encoder_2(clip_2, output_hidden_states=True)
        context = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
        context = F.pad(context, (0, T5_WIDTH - context.shape[-1]))
        context = torch.cat([context, self.text_encoder_3(t5)[0]], dim=1)
        return context, torch.cat([one.text_embeds, two.text_embeds], dim=-1)

    def velocity(self, x_t: Tensor, sigma: Tensor, captions: list[str]) -> Tensor:
        """The model's estimate of noise - image, in the shape of `x_t`, (B, 16, side / 8, side / 8)."""
        context, pooled = self.encode(captions, x_t.device.type)
        timestep = sigma.to(x_t.device) * TIMESTEPS
        return self.transformer(x_t, context, pooled, timestep, return_dict=False)[0]

    def _tokens(self, captions: list[str]) -> Tensor:
        """Tokens from each tokenizer, (3, B, 16). They are kept: a GPU trains faster than captions can be tokenized."""
        new = sorted({caption for caption in captions if caption not in self._known})
        if new:
            cut = [
                tokenizer(new, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
                for tokenizer in self.tokenizers
            ]
            self._known.update(zip(new, torch.stack(cut, dim=1), strict=True))
        return torch.stack([self._known[caption] for caption in captions], dim=1)


@torch.no_grad()
def _start_still(transformer: SD3Transformer2DModel) -> None:
    """Starts every block as the identity, and the velocity as 0 (adaLN-Zero, Peebles and Xie, 2023)."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            still = name.endswith(("norm1.linear", "norm1_context.linear", "norm_out.linear")) or name == "proj_out"
            nn.init.zeros_(module.weight) if still else nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


def new_flow(depth: int, side: int, seed: int) -> TextToFlow:
    """An untrained model, a function of the seed."""
    torch.manual_seed(seed)
    return TextToFlow(depth, side)


def by_scale(error: Tensor, measure: Tensor) -> Tensor:
    """The mean square of a velocity's error and of its averages over 2 x 2 latents, which are one token.

    An average of four independent errors has a quarter of their square, so it counts four times. A colour that a token
    gets wrong as a whole costs more than one that is wrong in detail.

    Args:
        error: (B, 16, side / 8, side / 8).
        measure: (16, 16), see `measure_of_pixels`.
    """
    seen = torch.einsum("ij,bjhw->bihw", measure, error)
    return (seen.square().mean() + 4 * F.avg_pool2d(seen, 2).square().mean()) / 2


def train_flow(
    model: TextToFlow,
    stage: Stage,
    pictures: Pictures,
    latents: Normalised,
    shift: float,
    measure: Tensor,
    place: Workplace,
) -> None:
    """Trains it to predict, from a noisy picture and its caption, the direction to the picture.

    Args:
        shift: of the noise levels, as in SD 3: the more latents a picture has, the more noise hides it.
        measure: of the velocity's errors, (16, 16), see `measure_of_pixels`.
    """
    scenes = [pictures.scene(index) for index in range(pictures.taught)]
    creatures = torch.tensor([index for index, scene in enumerate(scenes) if scene.creature is not None])
    of_creatures = round(CREATURES * stage.batch) if len(creatures) else 0
    measure = measure.to(place.device)
    model.train()

    def loss_of(step: int, chance: torch.Generator) -> Tensor:
        rows = torch.randint(len(scenes), (stage.batch - of_creatures,), generator=chance)
        if of_creatures:
            more = torch.randint(len(creatures), (of_creatures,), generator=chance)
            rows = torch.cat([rows, creatures[more]])
        words = random.Random(f"{place.seed} captions {step}")
        captions = [training_caption(scenes[row], words) for row in rows.tolist()]
        image = latents.rows(rows)
        noise = torch.randn(image.shape, generator=chance)
        sigma = draw_sigma(stage.batch, "logit_normal", chance, shift=shift)
        x_t, target = interpolate(image, noise, sigma).to(place.device), velocity_target(image, noise).to(place.device)
        with _attention(x_t), autocast(place.device):
            velocity = model.velocity(x_t, sigma, captions)
        return by_scale(velocity.float() - target, measure)

    train(stage, place, model, loss_of)
    model.eval()


def _attention(x_t: Tensor) -> AbstractContextManager:
    """Plain attention is fastest on a CPU with the 48 tokens of 8 x 8 latents, but not with the 96 of 16 x 16."""
    plain = x_t.device.type == "cpu" and x_t.shape[-1] <= PLAIN_UP_TO
    return sdpa_kernel(SDPBackend.MATH) if plain else contextlib.nullcontext()
