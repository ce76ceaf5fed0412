"""Lowers a LoRA's rank: each update keeps its largest singular directions. It reports what is lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from library.adapters.changes import WholeChange
from library.adapters.lora_names import names_of
from library.adapters.network import LayerWeights


@dataclass(frozen=True)
class Lost:
    """What a lower rank lost, as shares of the update's length.

    Args:
        overall: of the whole LoRA.
        worst: of the layer that lost the most.
        layer: its name.
    """

    overall: float
    worst: float
    layer: str


def resized(layers: Mapping[str, LayerWeights], rank: int) -> tuple[dict[str, LayerWeights], Lost]:
    """The LoRA with at most this rank in every layer; layers of a lower one stay as they are.

    The q, k and v of other trainers' files often share one down; they are cut together, so that they still do.
    """
    found: dict[str, LayerWeights] = {}
    losses: list[tuple[float, float, str]] = []
    for names in _groups(layers):
        members = [layers[name] for name in names]
        whole = LayerWeights(members[0].down, torch.cat([one.up for one in members]), members[0].alpha)
        kept, lost, total = _cut(whole, rank)
        ups = kept.up.split([len(one.up) for one in members])
        found |= {name: LayerWeights(kept.down, up, kept.alpha) for name, up in zip(names, ups, strict=True)}
        losses.append((lost, total, names[0]))
    return found, _lost(losses)


def closest(changes: Mapping[str, WholeChange], rank: int) -> tuple[dict[str, LayerWeights], Lost]:
    """The closest LoRA of this rank to changes of whole weights."""
    found = {name: change.closest(rank) for name, change in changes.items()}
    return {name: one.weights for name, one in found.items()}, _lost(
        [(one.lost, one.total, name) for name, one in found.items()]
    )


def _lost(losses: Sequence[tuple[float, float, str]]) -> Lost:
    """From squared lengths of what each layer lost and of the whole layer, with its name."""
    lost, total = (math.fsum(column) for column in list(zip(*losses, strict=True))[:2])
    worst = max(losses, key=lambda one: one[0] / one[1] if one[1] else 0.0)
    share = math.sqrt(worst[0] / worst[1]) if worst[1] else 0.0
    return Lost(math.sqrt(lost / total) if total else 0.0, share, worst[2])


def _groups(layers: Mapping[str, LayerWeights]) -> list[list[str]]:
    """Names of layers that are cut together: those that share a down, and every other one alone."""
    fused_in = names_of(layers).fused
    groups: dict[str, list[str]] = {}
    for name in layers:
        fused = fused_in(name)
        leader = groups.get(fused) if fused else None
        if leader and _share(layers[leader[0]], layers[name]):
            leader.append(name)
        else:
            groups[fused if fused and not leader else name] = [name]
    return list(groups.values())


def _share(one: LayerWeights, other: LayerWeights) -> bool:
    return one.alpha == other.alpha and torch.equal(one.down, other.down)


def _cut(layer: LayerWeights, rank: int) -> tuple[LayerWeights, float, float]:
    """The update's best approximation of this rank; squared lengths of what is lost and of the whole."""
    left, small_left = torch.linalg.qr(layer.up.double())
    right, small_right = torch.linalg.qr(layer.down.double().T)
    core = layer.alpha / layer.rank * (small_left @ small_right.T)
    u, s, vh = torch.linalg.svd(core)
    total, lost = float(s.square().sum()), float(s[rank:].square().sum())
    if layer.rank <= rank:
        return layer, 0.0, total
    root: Tensor = s[:rank].sqrt()
    up, down = left @ (u[:, :rank] * root), (root[:, None] * vh[:rank]) @ right.T
    return LayerWeights(down.float(), up.float(), float(rank)), lost, total
