"""`base_weights`: LoRAs that are merged into the pretrained model before it computes anything, as in sd-scripts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from library.adapters.files import load_lora
from library.adapters.network import LayerWeights
from library.config.network_settings import NetworkSettings
from library.errors import naming
from library.files import fingerprint
from library.models.family import FlowModel
from library.models.interface import BaseChange


def with_base_weights(model: FlowModel, network: NetworkSettings) -> FlowModel:
    """The model with everything that the settings merge into it, in their order.

    Raises:
        ModelError: a file is missing, not a plain LoRA, for another model, or also changes the text encoders.
    """
    for index, path in enumerate(network.base_weights):
        given = network.base_weights_multiplier
        with naming("base_weights"):
            model = model.on_top_of(_change(path, given[index] if index < len(given) else 1.0, model))
    return model


def contents(network: NetworkSettings, blocks: int) -> list[str]:
    """Identifies the files' effect on the model, for anything that must be made with the same one."""
    return [_content(load_lora(path, blocks)) for path in network.base_weights]


def _content(layers: Mapping[str, LayerWeights]) -> str:
    tensors = {f"{name} {half}": getattr(layer, half) for name, layer in layers.items() for half in ("down", "up")}
    return fingerprint.of_key([fingerprint.of_tensors(tensors), {name: one.alpha for name, one in layers.items()}])


def _change(path: str, multiplier: float, model: FlowModel) -> BaseChange:
    layers = load_lora(path, model.depth)
    return BaseChange(
        {f"{name}.weight": partial(_update, layer, multiplier) for name, layer in layers.items()},
        {f"{name}.weight": (len(layer.up), layer.down.shape[1]) for name, layer in layers.items()},
        fingerprint.of_key([_content(layers), multiplier]),
        f"base_weights: {path}",
    )


def _update(layer: LayerWeights, multiplier: float) -> Tensor:
    return multiplier * layer.delta()
