"""How much the pretrained model's velocity depends on each number of its weights: the diagonal Fisher information.

    F = E over x_t, y and xi of (d <v(x_t | y), xi> / dW)^2,   xi ~ N(0, I)

which is the Fisher information of a Gaussian of unit variance around the velocity.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from library.chance import generator_for
from library.dual_branch_scheduler import Branch
from library.files.fingerprint import of_key
from library.flow import draw_sigma, interpolate
from library.methods.ewc import EWCSettings
from library.models.interface import Progress, PromptBatch
from library.parts.parts import Attached
from library.prepare.replay import Replay

ADAPTER = "fisher"
"""Stands on every layer while its gradients are squared."""


def fisher_of(parts: Attached, replay: Replay, progress: Progress = iter) -> dict[str, Tensor]:
    """The Fisher information of every layer of the network, (out, in) each, bf16 on the CPU; its mean over all is 1.

    Args:
        replay: the pictures and prompts it is taken on.
        progress: wraps the loop that takes the time.
    """
    seed, samples = parts.settings.optimizer.seed, parts.settings.of_method(EWCSettings).ewc_fisher_samples
    key = {
        "transformer": parts.model.fingerprint(),
        "text": parts.model.text_fingerprint(),
        "layers": sorted(parts.network.layers),
        "prompts": of_key({"texts": [triple.base for triple in replay.triples]}),
        "pictures": float(replay.latents.double().square().sum()),
        "samples": samples,
        "seed": seed,
        "noise": vars(parts.settings.noise),
    }
    return parts.cache.get("fisher", key, lambda: _collected(parts, replay, samples, progress))


def _collected(parts: Attached, replay: Replay, samples: int, progress: Progress) -> dict[str, Tensor]:
    totals: dict[str, Tensor] = {}
    parts.network.add_full(ADAPTER, torch.float32)
    parts.network.train_only([ADAPTER])
    handles = []
    for name, layer in parts.network.layers.items():
        weight = layer.full_rank(ADAPTER).weight
        totals[name] = torch.zeros_like(weight)
        handles.append(weight.register_post_accumulate_grad_hook(_squares_into(totals[name])))
    for number in progress(range(samples)):
        _backward(parts, replay, number)
    for handle in handles:
        handle.remove()
    for layer in parts.network.layers.values():
        del layer.adapters[ADAPTER]
    mean = sum(float(one.sum()) for one in totals.values()) / sum(one.numel() for one in totals.values())
    return {name: (one / mean).bfloat16().cpu() for name, one in totals.items()}


def _squares_into(total: Tensor) -> Callable[[Tensor], None]:
    @torch.no_grad()
    def squared(weight: Tensor) -> None:
        assert weight.grad is not None, "the backward pass has just made it"
        total.add_(weight.grad.square())
        weight.grad = None

    return squared


def _backward(parts: Attached, replay: Replay, number: int) -> None:
    """The gradient of one noisy picture's velocity along a random direction."""
    generator, noise = generator_for(parts.settings.optimizer.seed, "fisher", number), parts.settings.noise
    row = number % len(replay.latents)
    image = replay.latents[row : row + 1]
    sigma = draw_sigma(
        1,
        noise.weighting_scheme,
        generator,
        logit_mean=noise.logit_mean,
        logit_std=noise.logit_std,
        mode_scale=noise.mode_scale,
        shift=noise.training_shift,
    )
    x_t = interpolate(image, torch.randn(image.shape, generator=generator), sigma)
    prompts = PromptBatch.of([parts.texts[replay.triples[row].base]], [None])
    velocity = parts.velocity(Branch({}, {}, default=ADAPTER), x_t, sigma, [prompts])
    direction = torch.randn(velocity.shape, generator=generator).to(velocity.device)
    (velocity * direction).sum().backward()
