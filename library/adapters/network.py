"""The adapters of a whole transformer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from library.adapters.linear import (
    NO_ADAPTER,
    NOTHING_DROPPED,
    PLAIN,
    AdapterLinear,
    AdapterPatches,
    Dropout,
    Facts,
    Form,
    FullRank,
    Layer,
    LowRank,
    Route,
    route_of,
    shape_of,
    size_of,
)
from library.adapters.orthogonal import OrthogonalLowRank
from library.errors import ConfigError, ModelError
from library.per_pass import PerPass

LowRankWeights = Mapping[str, "LayerWeights"]
"""The weights of one adapter by the diffusers name of the layer."""


class Change(Protocol):
    """A file's update of one layer's weight."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    def delta(self) -> Tensor:
        """The sum, (out, in), float32."""


class LayerWeights:
    """One layer's low-rank weights, without a model: delta W = alpha / rank * up @ down.

    Args:
        down: (rank, in). up: (out, rank).
    """

    def __init__(self, down: Tensor, up: Tensor, alpha: float) -> None:
        self.down = down
        self.up = up
        self.alpha = alpha

    @property
    def rank(self) -> int:
        """Width of the bottleneck."""
        return len(self.down)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the update of the layer's weight: (out, in)."""
        return len(self.up), self.down.shape[1]

    def delta(self) -> Tensor:
        """The update of the layer's weight, (out, in), float32."""
        return self.alpha / self.rank * (self.up.float() @ self.down.float())

    def turned(self) -> LayerWeights:
        """The same update with the two halves of its outputs swapped."""
        return LayerWeights(self.down, torch.cat(self.up.chunk(2)[::-1]), self.alpha)


def check_fit(transformer: nn.Module, changes: Mapping[str, Change], source: str) -> None:
    """Checks that a transformer has the layers that a file changes, in the same sizes.

    Args:
        changes: by diffusers name. source: the file, for error messages.

    Raises:
        ModelError: it doesn't.
    """
    layers = dict(transformer.named_modules())
    for name, change in changes.items():
        has = size_of(layers[name]) if name in layers else None
        if has != change.shape:
            what = f"has {has[0]} x {has[1]}" if has else "has no such layer"
            raise ModelError(
                f"{source} was trained for another model: it changes {name}, {change.shape[0]} x {change.shape[1]}; "
                f"this model {what}.",
                "Use the model it was trained for: --pretrained_model_name_or_path.",
            )


def _is_target(name: str, endings: Iterable[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def endings_in(lists: Mapping[str, Sequence[nn.Module]], endings: Iterable[str]) -> list[str]:
    """Those of the endings that the name of a linear layer in the blocks has."""
    names = [name for _, name in _linears(lists)]
    return [ending for ending in endings if any(_is_target(name, [ending]) for name in names)]


def _linears(lists: Mapping[str, Sequence[nn.Module]]) -> dict[tuple[int, str], tuple[nn.Module, str, nn.Linear]]:
    """The linear layers of all blocks, by the number of their block and their name: block, name inside it, layer."""
    blocks = [(f"{prefix}.{index}", block) for prefix, one in lists.items() for index, block in enumerate(one)]
    return {
        (number, f"{begin}.{name}"): (block, name, layer)
        for number, (begin, block) in enumerate(blocks)
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear)
    }


def rank_in(ranks: Mapping[str, int], layer: str) -> int:
    """The rank of a layer, from ranks by the endings of layers' names."""
    return next(rank for ending, rank in ranks.items() if _is_target(layer, [ending]))


@torch.no_grad()
def limit_norms(low_ranks: Sequence[LowRank], most: float) -> dict[str, float]:
    """Shrinks updates longer than `most` to that length, both matrices equally (sd-scripts' max-norm).

    Returns:
        How many were shrunk, and the mean and largest length afterwards.
    """
    norms = torch.stack([low_rank.norm() for low_rank in low_ranks])
    shares = (most / norms).clamp_max(1)
    for low_rank, share in zip(low_ranks, shares.sqrt(), strict=True):
        low_rank.up.mul_(share)
        low_rank.down.mul_(share)
    after = norms * shares
    return {
        "keys_scaled": int((norms > most).sum()),
        "average_key_norm": float(after.mean()),
        "max_key_norm": float(after.max()),
    }


class AdapterNetwork:
    """Named adapters on the linear layers of a transformer's blocks.

    Args:
        lists: the lists of the transformer's blocks by their names inside it, in the order in which they run. Target
            layers are wrapped in place and frozen.
        target_modules: endings of the names of the layers to wrap.
        chosen: numbers of the blocks whose layers are wrapped, counted across all lists; None: all.

    Raises:
        ConfigError: a target matches no linear layer.
    """

    def __init__(
        self,
        lists: Mapping[str, Sequence[nn.Module]],
        target_modules: Iterable[str],
        chosen: Collection[int] | None = None,
    ) -> None:
        self.route: PerPass[Route] = PerPass(NO_ADAPTER)
        self.layers: dict[str, AdapterLinear] = {}
        linears, there = _linears(lists), endings_in(lists, target_modules)
        for ending in target_modules:
            if ending not in there:
                known = sorted({name for _, name, _ in linears.values()})
                raise ConfigError(
                    f'target_modules: no linear layer of the model ends in "{ending}".',
                    f"Choose from: {', '.join(known)}.",
                )
        for (number, layer_name), inside in linears.items():
            if _is_target(layer_name, target_modules) and (chosen is None or number in chosen):
                self.layers[layer_name] = self._wrap(*inside)

    @classmethod
    def on(cls, transformer: nn.Module, names: Iterable[str]) -> AdapterNetwork:
        """A network on exactly these layers, inside or outside the blocks.

        Args:
            names: of layers that the transformer has, see `check_fit`.
        """
        network = cls({}, ())
        for name in dict.fromkeys(names):
            layer = transformer.get_submodule(name)
            assert isinstance(layer, Layer), f"{name} can have no adapters"
            network.layers[name] = network._wrap(transformer, name, layer)
        return network

    def _wrap(self, root: nn.Module, name: str, layer: Layer) -> AdapterLinear:
        path, _, last = name.rpartition(".")
        wrapped = (AdapterPatches if isinstance(layer, nn.Conv2d) else AdapterLinear)(layer, self.route)
        setattr(root.get_submodule(path), last, wrapped)
        return wrapped

    def add(
        self,
        adapter: str,
        ranks: int | Mapping[str, int],
        alpha: float,
        generator: torch.Generator,
        dropout: Dropout = NOTHING_DROPPED,
        dtype: torch.dtype = torch.float32,
        form: Form = PLAIN,
    ) -> None:
        """Adds a fresh adapter to every layer; it changes nothing until it is trained.

        Args:
            ranks: of all layers, or by the endings of their names.
            form: how it differs from a plain LoRA.
        """
        kind = OrthogonalLowRank if form.orthogonal else LowRank
        for name, layer in self.layers.items():
            rank = ranks if isinstance(ranks, int) else rank_in(ranks, name)
            layer.adapters[adapter] = kind(layer.base, rank, alpha, dropout, generator, form.gate).to(dtype)

    def add_full(self, adapter: str, dtype: torch.dtype) -> None:
        """Adds a change of its whole weight to every layer; it is 0 until it is trained."""
        for layer in self.layers.values():
            layer.adapters[adapter] = FullRank(layer.base, dtype)

    def using(
        self, adapters: Sequence[str | None], thinned: bool = False, facts: Facts | None = None
    ) -> AbstractContextManager[None]:
        """Inside, row i of every batch uses `adapters[i]`; None: only the pretrained weights.

        Args:
            thinned: learning adapters apply their dropout.
            facts: about the rows, for adapters with a gate.
        """
        return self.route.set_to(route_of(adapters, thinned, facts))

    def parameters(self, adapter: str) -> list[nn.Parameter]:
        """The weights of one adapter, in the order of the layers."""
        return [weight for _, weight in self.named_parameters(adapter)]

    def named_parameters(self, adapter: str) -> list[tuple[str, nn.Parameter]]:
        """The same, each with its role in the adapter: "down", "up" or "weight"."""
        return [named for layer in self.layers.values() for named in layer.adapters[adapter].named_parameters()]

    def train_only(self, adapters: Iterable[str]) -> None:
        """Exactly these adapters learn; all others are frozen."""
        learning = set(adapters)
        for layer in self.layers.values():
            for name, low_rank in layer.adapters.items():
                low_rank.requires_grad_(name in learning).train(name in learning)

    def set_strength(self, adapter: str, strength: float) -> None:
        """How strongly an adapter acts, 1 as trained."""
        for layer in self.layers.values():
            if adapter in layer.adapters:
                layer.adapter(adapter).strength = strength

    def weights(self, adapter: str) -> dict[str, LayerWeights]:
        """A copy of an adapter's weights on the CPU as a plain LoRA, float32, by layer."""

        def copy(low_rank: LowRank) -> LayerWeights:
            down, up, alpha = low_rank.as_plain()
            down, up = (half.detach().to("cpu", torch.float32, copy=True) for half in (down, up))
            return LayerWeights(down, up, alpha)

        return {name: copy(layer.low_rank(adapter)) for name, layer in self.layers.items()}

    @torch.no_grad()
    def load(self, adapter: str, weights: Mapping[str, Change], source: str) -> None:
        """Adds an adapter with the given weights; layers that `weights` lacks get no change.

        Args:
            weights: a change that is not a LoRA is added as a whole weight, in the precision of the layer.
            source: the file, for error messages.

        Raises:
            ModelError: a layer is unknown or a shape does not fit.
        """
        unknown = sorted(set(weights) - set(self.layers))
        if unknown:
            raise ModelError(
                f"{source} has a LoRA for {unknown[0]}, which the model or target_modules lacks ({len(unknown)} "
                "layers in total).",
                "Use the model and target_modules it was trained with.",
            )
        for name, layer in self.layers.items():
            given = weights.get(name)
            if given and given.shape != shape_of(layer.base):
                raise ModelError(
                    f"{source}: the LoRA of {name} is {given.shape[0]} x {given.shape[1]}, the model's layer is "
                    f"{' x '.join(map(str, shape_of(layer.base)))}.",
                    "It was trained for another model.",
                )
            layer.adapters[adapter] = _loaded(layer.base, given).requires_grad_(False)


def _loaded(base: Layer, given: Change | None) -> LowRank | FullRank:
    """An adapter that adds a change; None: no change."""
    if given is None:
        return LowRank(base, 1, 1.0)
    if isinstance(given, LayerWeights):
        low_rank = LowRank(base, given.rank, given.alpha)
        low_rank.down.copy_(given.down)
        low_rank.up.copy_(given.up)
        return low_rank
    weight = base.weight
    full_rank = FullRank(base, weight.dtype if weight.dtype in (torch.bfloat16, torch.float16) else torch.float32)
    full_rank.weight.copy_(given.delta())
    return full_rank
