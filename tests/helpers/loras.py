"""LoRAs of the tiny model: attached to it, as weights, and as files with one layer."""

from __future__ import annotations

import torch
from diffusers import SD3Transformer2DModel

from library.adapters.network import AdapterNetwork, LayerWeights
from library.models.sd3.layouts.known import LAYOUTS
from library.models.sd3.settings import ATTENTION
from tests.helpers.tiny import tiny_transformer

OUTSIDE = {
    "context_embedder": (32, 48),
    "time_text_embed.timestep_embedder.linear_1": (32, 16),
    "time_text_embed.text_embedder.linear_2": (32, 32),
    "norm_out.linear": (64, 32),
    "proj_out": (16, 32),
    "pos_embed.proj": (32, 16),
}
"""Layers outside the blocks, with their shapes (outputs, inputs)."""
PART = "transformer_blocks.0.ff.net.2"
"""A layer with 32 outputs and 128 inputs."""


def layer(seed: int, outputs: int, inputs: int, rank: int = 4, alpha: float = 4.0) -> LayerWeights:
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)
    return LayerWeights(down.half().float(), up.half().float(), alpha)


def all_layers() -> list[str]:
    """Every linear layer of a block, feed-forward and modulation included."""
    ff = ["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]
    return [*ATTENTION, *ff, "norm1.linear", "norm1_context.linear"]


def network_on(transformer: SD3Transformer2DModel, *adapters: str, targets=ATTENTION) -> AdapterNetwork:
    """A network with adapters that have an effect."""
    transformer.requires_grad_(False)
    network = AdapterNetwork({"transformer_blocks": transformer.transformer_blocks}, targets)
    for seed, adapter in enumerate(adapters):
        generator = torch.Generator().manual_seed(seed)
        network.add(adapter, 4, 6.0, generator)
        for one in network.layers.values():
            torch.nn.init.normal_(one.adapters[adapter].up, std=0.2, generator=generator)
    return network


def whole_lora(rank: int = 4, alpha: float = 4.0) -> dict[str, LayerWeights]:
    """A LoRA on every linear layer of the tiny model, and on its patch embedding."""
    weights = {}
    for seed, (name, one) in enumerate(network_on(tiny_transformer(), targets=all_layers()).layers.items()):
        weights[name] = layer(seed, one.base.out_features, one.base.in_features, rank, alpha)
    for seed, (name, shape) in enumerate(OUTSIDE.items(), start=1000):
        weights[name] = layer(seed, *shape, rank, alpha)
    return weights


def assert_same(one: dict[str, LayerWeights], two: dict[str, LayerWeights]) -> None:
    """Compares two LoRAs bit for bit."""
    assert set(one) == set(two)
    for name, weights in one.items():
        other = two[name]
        assert torch.equal(weights.down, other.down) and torch.equal(weights.up, other.up), name
        assert weights.alpha == other.alpha, name


def kohya_file(**changes) -> dict[str, torch.Tensor]:
    tensors = LAYOUTS["kohya"].write({PART: layer(0, 32, 128)})
    return {**tensors, **{key: value for key, value in changes.items() if value is not None}}
