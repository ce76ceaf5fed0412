"""The result and the cost of operations on the meta device.

PyTorch computes shapes in Python, which takes up to a millisecond per operation. A model repeats the same few
operations, so each is computed once and then cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

META = torch.device("meta")
FREE = frozenset(
    getattr(torch.ops.aten, name)
    for name in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "detach")
)
"""Operations besides views that neither read nor write values."""


@dataclass(frozen=True)
class Outcome:
    """The result and the cost of an operation.

    Args:
        result: what it returns.
        flops: floating-point operations of matrix products, convolutions and attention.
        traffic: bytes read and written; 0 if it computes nothing.
    """

    result: Any
    flops: int
    traffic: int


@dataclass(frozen=True)
class _Shape:
    """Replaces a tensor that fills its own storage in a cached result."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def made(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=META)


_KNOWN: dict[Any, Outcome] = {}
"""Cached outcomes by operation and arguments, with a `_Shape` for each tensor of the result."""


def outcome_of(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
    """Runs the operation, or returns its cached outcome in new storages."""
    key = _key_of(func, args, kwargs)
    known = None if key is None else _KNOWN.get(key)
    if known is not None:
        return Outcome(tree_map_only(_Shape, _Shape.made, known.result), known.flops, known.traffic)
    out = func(*args, **kwargs)
    count = flop_registry.get(func._overloadpacket)
    flops = 0 if count is None else count(*args, **kwargs, out_val=out)
    free = func.is_view or func._overloadpacket in FREE
    traffic = 0 if free else sum(_bytes_of(leaf) for leaf in tree_leaves((args, kwargs, out)))
    if key is not None and _is_new(out, (args, kwargs)):
        shapes = tree_map_only(Tensor, lambda one: _Shape(one.shape, one.stride(), one.dtype), out)
        _KNOWN[key] = Outcome(shapes, flops, traffic)
    return Outcome(out, flops, traffic)


def _key_of(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Everything the outcome depends on; None if that is more than shapes, or the operation changes its arguments."""
    if func.is_view or func._schema.is_mutable:
        return None
    described = _described((args, tuple(kwargs.items())))
    return None if described is None else (func, described)


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.device != META or type(value) not in (Tensor, torch.nn.Parameter):
            return None
        return value.shape, value.stride(), value.dtype, value.untyped_storage().nbytes()
    if isinstance(value, tuple | list):
        parts = tuple(_described(part) for part in value)
        return None if None in parts else parts
    return type(value), value


def _is_new(out: Any, given: Any) -> bool:
    """Whether each tensor of a result fills its own, new storage."""
    tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    made = {one._cdata: one.nbytes() for one in storages_of(out)}
    if len(made) < len(tensors) or any(one._cdata in made for one in storages_of(given)):
        return False
    return all(
        type(one) is Tensor and _Shape(one.shape, one.stride(), one.dtype).made().untyped_storage().nbytes() == size
        for one, size in zip(tensors, made.values(), strict=True)
    )


def _bytes_of(leaf: Any) -> int:
    """Bytes moved by reading or writing a meta tensor; expanded values count once."""
    if not isinstance(leaf, Tensor) or leaf.device.type != "meta":
        return 0
    return min(leaf.numel() * leaf.element_size(), leaf.untyped_storage().nbytes())


def storages_of(tree: Any) -> list[torch.UntypedStorage]:
    """The storages of the meta tensors in nested arguments or results."""
    leaves = tree_leaves(tree)
    return [leaf.untyped_storage() for leaf in leaves if isinstance(leaf, Tensor) and leaf.device.type == "meta"]
