"""The autoencoder: 8 x 8 pixels to a latent of 16 channels, as in SD 3.5."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from library.files.atomic import write_tensors
from tools.pocket.pen import OBJECT
from tools.pocket.pictures import Pictures
from tools.pocket.stage import Stage, Workplace, autocast, train

CHANNELS = 16
SHRINKS = 8
"""Pixels per latent, along each side."""
BLOCKS = (16, 32, 64, 128)
KL = 3e-4
"""Pull of the latents towards unit noise: enough to keep them smooth, too little to cost detail."""
EDGES = 0.5
"""Weight of the differences between neighbouring pixels, next to the pixels themselves."""
SQUARES = 2.0
"""Weight of squared errors next to absolute ones, which settle for a middling brown until colours are learnt."""
HUES = 1.5
"""Weight of errors in hue next to errors in brightness, which are learnt first and then hide them."""
FIRST_LOG_VARIANCE = -3.0
"""Log variance of the latents' noise before training. As much noise as signal would leave nothing to learn from."""
LATENT_GRAIN = 0.05
"""Noise on the latents while only the decoder trains, in their standard deviations: a flow model's are never exact."""
DECODED_BATCHES, DECODED, DIRECTIONS = 4, 4, 2
"""How many latents, and directions of pixels each, tell how the decoder shows changes of latents."""
ON_OBJECT = 2.0
"""How much more an object's pixels count than the background's."""


def new_autoencoder(side: int) -> AutoencoderKL:
    """An untrained autoencoder for pictures of `side` x `side` pixels."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(BLOCKS),
        up_block_types=("UpDecoderBlock2D",) * len(BLOCKS),
        block_out_channels=BLOCKS,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=side,
        force_upcast=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    _start_linear(vae)
    return vae


@torch.no_grad()
def _start_linear(vae: AutoencoderKL) -> None:
    """Passes signals through undamaged from the first step: residual branches give 0, everything else keeps norms.

    With PyTorch's own initialisation, each convolution loses much of the signal, and learning starts slowly.
    """
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.bias)
            if name.endswith("conv2"):
                nn.init.zeros_(module.weight)
            elif not name.endswith("conv1"):
                nn.init.orthogonal_(module.weight)
    nn.init.zeros_(vae.encoder.conv_out.weight[CHANNELS:])
    nn.init.constant_(vae.encoder.conv_out.bias[CHANNELS:], FIRST_LOG_VARIANCE)


def difference(made: Tensor, picture: Tensor, regions: Tensor) -> Tensor:
    """The error of pictures in values and edges, the mean over all pixels.

    Args:
        made, picture: (B, 3, side, side), in -1..1.
        regions: (B, side, side).
    """
    error = made.float() - picture
    hue = error - error.mean(1, keepdim=True)
    error = error + (HUES - 1) * hue
    weight = 1 + ON_OBJECT * (regions == OBJECT).float().unsqueeze(1)
    across, down = error.diff(dim=3).abs() * weight[..., 1:], error.diff(dim=2).abs() * weight[..., 1:, :]
    return (
        ((error.abs() + SQUARES * error.square()) * weight).mean() + EDGES * (across.mean() + down.mean())
    ) / weight.mean()


def train_autoencoder(vae: AutoencoderKL, stage: Stage, pictures: Pictures, place: Workplace) -> None:
    """Trains encoder and decoder together."""

    def loss_of(step: int, chance: torch.Generator) -> Tensor:
        picture, regions = pictures.batch(
            torch.randint(len(pictures.pixels), (stage.batch,), generator=chance), place.device
        )
        with autocast(place.device):
            mean, log_variance = vae.encoder(picture).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        noise = torch.randn(mean.shape, generator=chance).to(place.device)
        with autocast(place.device):
            made = vae.decoder(mean + (0.5 * log_variance).exp() * noise)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return difference(made, picture, regions) + KL * kl

    train(stage, place, vae, loss_of)


@torch.no_grad()
def encode_all(vae: AutoencoderKL, file: Path, pictures: Pictures, device: str, batch: int = 32) -> Tensor:
    """Means of all pictures' latents, (N, 16, side / 8, side / 8), float16; kept in a file. Notes shift and scaling.

    SD 3's rule: a model sees (latent - shift) * scaling, with mean 0 and standard deviation 1.
    """
    from safetensors.torch import load_file

    if not file.exists():
        parts = []
        for start in range(0, len(pictures.pixels), batch):
            rows = torch.arange(start, min(start + batch, len(pictures.pixels)))
            with autocast(device):
                moments = vae.encoder(pictures.batch(rows, device)[0])
            parts.append(moments.float().chunk(2, dim=1)[0].half().cpu())
        write_tensors(file, {"latents": torch.cat(parts)})
    latents = load_file(file)["latents"]
    taught = latents[: pictures.taught].float()
    vae.register_to_config(
        scaling_factor=round(1 / taught.std().item(), 5), shift_factor=round(taught.mean().item(), 5)
    )
    return latents


def polish_decoder(vae: AutoencoderKL, stage: Stage, pictures: Pictures, latents: Tensor, place: Workplace) -> None:
    """Trains only the decoder further. The latents don't change, so a flow model may train at the same time."""
    vae.encoder.requires_grad_(False)
    spread = 1 / vae.config.scaling_factor

    def loss_of(step: int, chance: torch.Generator) -> Tensor:
        rows = torch.randint(len(latents), (stage.batch,), generator=chance).sort().values
        picture, regions = pictures.batch(rows, place.device)
        grain = LATENT_GRAIN * spread * torch.randn(latents[rows].shape, generator=chance)
        with autocast(place.device):
            made = vae.decoder((latents[rows].float() + grain).to(place.device))
        return difference(made, picture, regions)

    train(stage, place, vae, loss_of)


def measure_of_pixels(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """A linear map of the channels of normalised latents, (16, 16), whose lengths are half those of the latents, and
    half those of the pixels' changes that the decoder makes of them.

    The decoder hardly shows some directions, and others a lot. A loss in this measure cares more for those.

    Args:
        latents: as the encoder returns them, (N, 16, side / 8, side / 8).
    """
    chance, gram = torch.Generator().manual_seed(0), torch.zeros(CHANNELS, CHANNELS)
    for rows in torch.randint(len(latents), (DECODED_BATCHES, DECODED), generator=chance):
        some = latents[rows].float().to(vae.device).requires_grad_()
        pixels = vae.decode(some).sample
        for _ in range(DIRECTIONS):
            direction = torch.randn(pixels.shape, generator=chance).to(vae.device)
            (change,) = torch.autograd.grad(pixels, some, direction, retain_graph=True)
            change = change.movedim(1, -1).flatten(0, -2).cpu()
            gram += change.T @ change
    gram = gram / gram.diagonal().mean()
    return torch.linalg.cholesky((torch.eye(CHANNELS) + gram) / 2).T.contiguous()
