"""Starts from an earlier student: `network_weights`, and the concept's vectors next to them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

import torch

from library.adapters.files import concept_file_of, load_concepts, load_lora, read_lora
from library.adapters.linear import LowRank
from library.adapters.network import LayerWeights
from library.config.family_settings import attention_layers
from library.config.network_settings import NetworkSettings
from library.config.settings import Settings
from library.errors import ConfigError, ModelError, naming
from library.methods import METHODS
from library.parts.learned import Student
from library.parts.parts import STUDENT_ADAPTER, Attached
from library.parts.saved_vectors import embeddings_of
from library.terminal import say

INTO_THE_MODEL = "put that LoRA into the pretrained model with base_weights, and train a new one on top of it."


def with_dim(settings: Settings, block_lists: Collection[str]) -> Settings:
    """The settings, with rank, scale and layers of `network_weights` if `dim_from_weights` is set.

    Layers that `target_modules` names stay the user's choice.

    Args:
        block_lists: names of the lists of the transformer's blocks, which their layers' names start with.

    Raises:
        ConfigError: the method trains no LoRA, or the file's rank is larger than `network_dim`.
        ModelError: there is no such file, or it is not a LoRA for this kind of model.
    """
    network, method = settings.network, settings.method.method
    if network.network_weights is None:
        return settings
    if METHODS[method].student_weights in ("words", "full"):
        raise ConfigError(f"network_weights is a LoRA, but {method} trains none.", "Remove network_weights.")
    with naming("network_weights"):
        layers = read_lora(network.network_weights).layers
    largest = max(layers.values(), key=lambda one: one.rank)
    if network.dim_from_weights:
        network = replace(network, network_dim=largest.rank, network_alpha=largest.alpha)
        if network.target_modules == METHODS[method].usual_layers:
            network = replace(network, target_modules=_kinds_of(layers, network, block_lists))
        return replace(settings, network=network)
    if largest.rank > max(network.ranks.values()):
        raise ConfigError(
            f"network_weights: {network.network_weights} has rank {largest.rank}, but network_dim is "
            f"{max(network.ranks.values())}.",
            "Set dim_from_weights = true, or lower its rank with purecc_convert.py --network_dim.",
        )
    return settings


def _inside(layer: str, block_lists: Collection[str]) -> str | None:
    """A layer's name inside its block; None if it is outside the blocks."""
    begin, _, rest = layer.partition(".")
    return rest.partition(".")[2] if begin in block_lists else None


def _kinds_of(layers: Iterable[str], network: NetworkSettings, block_lists: Collection[str]) -> list[str]:
    """The file's layers inside blocks, as `target_modules` names them."""
    known = [ending for kind in network.kinds.values() for ending in kind]
    targets = dict.fromkeys(inside for name in layers if (inside := _inside(name, block_lists)))
    found = {next((end for end in known if name.endswith(f".{end}") or name == end), name) for name in targets}
    order = [*attention_layers(), *known]
    return sorted(found, key=lambda ending: order.index(ending) if ending in order else len(order))


def _how_they_learn(unknown: list[str], settings: Settings, block_lists: Collection[str]) -> str:
    """Which settings make these layers learn, too."""
    outside = [name for name in unknown if _inside(name, block_lists) is None]
    if outside:
        return f"Layers outside the transformer blocks, such as {outside[0]}, can't be trained: {INTO_THE_MODEL}"
    network = settings.network
    missing = [kind for kind in _kinds_of(unknown, network, block_lists) if kind not in network.ranks]
    if not missing:
        return f'Set train_block_indices = "all", or {INTO_THE_MODEL}'
    if network.target_modules == METHODS[settings.method.method].usual_layers and not network.dim_from_weights:
        return f"Set dim_from_weights = true to train the file's layers, or {INTO_THE_MODEL}"
    named = ", ".join(f'"{kind}"' for kind in missing)
    return f"Add {named} to target_modules, or {INTO_THE_MODEL}"


@torch.no_grad()
def start_from_weights(parts: Attached, student: Student, tell: Callable[[str], None] = say) -> None:
    """Loads `network_weights` into a fresh student, and vectors from `NAME_concept.safetensors` if it is next to them.

    A layer of a lower rank fills the adapter's first ranks. The file's alpha goes into the weights, so that the student
    acts as the file does.

    Args:
        parts: may have shapes but no values, to check whether the file fits.
        tell: called with messages for the user.

    Raises:
        ModelError: the file changes layers that don't learn here, or was made for another model.
    """
    path = parts.settings.network.network_weights
    if path is None:
        return
    source = f"network_weights: {path}"
    with naming("network_weights"):
        layers = load_lora(path, parts.model.depth)
    unknown = sorted(set(layers) - set(parts.network.layers))
    if unknown:
        raise ModelError(
            f"{source} changes {len(unknown)} layers that are not trained here, such as {unknown[0]}.",
            _how_they_learn(unknown, parts.settings, parts.model.block_lists),
        )
    for name, given in layers.items():
        _copy_into(parts.network.layers[name].low_rank(STUDENT_ADAPTER), given, f"{source}: {name}")
    _start_from_vectors(parts, student, concept_file_of(Path(path).expanduser()), tell)


def _start_from_vectors(parts: Attached, student: Student, beside: Path | None, tell: Callable[[str], None]) -> None:
    """Loads vectors into the student's own; reports those of its vectors that are not in the file.

    Args:
        beside: the file of vectors next to the LoRA; None if there is none.
    """
    saved = embeddings_of(parts, load_concepts(beside)[0], str(beside)) if beside else {}
    own = student.vectors
    for name in own.keys() & saved.keys():
        try:
            own[name].load_vectors(saved[name].per_block())
        except ValueError as error:
            raise ModelError(
                f"network_weights: the vectors of {name} in {beside} don't fit: {error}.",
                "Use the trigger and concept_embeddings they were trained with.",
            ) from error
    if own and not beside:
        tell("network_weights: there is no file with the concept's vectors next to it, so they start from scratch.")
    elif own.keys() - saved.keys():
        fresh = ", ".join(sorted(own.keys() - saved.keys()))
        tell(f"network_weights: {beside} has no vectors of {fresh}, which start from scratch.")
    elif saved and not own and student.branch.embeddings:
        tell(f'network_weights: with student_embeddings = "shared", the vectors in {beside} are not used.')


def _copy_into(adapter: LowRank, given: LayerWeights, where: str) -> None:
    rank = given.rank
    if rank > adapter.rank:
        raise ModelError(
            f"{where} has rank {rank} instead of {adapter.rank}.",
            "Raise the rank, or lower the file's with purecc_convert.py --network_dim.",
        )
    if adapter.down[:rank].shape != given.down.shape or adapter.up[:, :rank].shape != given.up.shape:
        raise ModelError(f"{where} has a different shape than the model's layer.", "It was trained for another model.")
    adapter.down[:rank].copy_(given.down)
    adapter.up[:, :rank].copy_(given.up.float() * (given.alpha / rank) / (adapter.alpha / adapter.rank))
