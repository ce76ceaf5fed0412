"""Counts the memory and arithmetic of code that runs on the meta device, where tensors have shapes but no values.

The count is exact for tensors: every storage counts from the operation that makes it until the last tensor on it is
gone. It leaves out what the driver, kernel workspaces and the allocator's gaps take.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from library.models.memory.allocator import Event
from library.models.memory.operations import outcome_of, storages_of
from library.models.memory.work import Work


class LiveMemory(TorchDispatchMode):
    """Tracks every storage that is made on the meta device inside the `with` block.

    Attributes:
        now, peak: bytes of storages made inside that exist now, and the most that existed at once.
        flops: floating-point operations of matrix products, convolutions and attention, forward and backward.
        work: every operation that computes.
        events: every storage that is made or freed, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.flops = 0
        self.work = Work()
        self.events: list[Event] = []
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        outcome = outcome_of(func, args, kwargs)
        out = outcome.result
        self.flops += outcome.flops
        if outcome.traffic:
            self.work.add(outcome.flops, outcome.traffic, "attention" in func.__name__)
        made = [storage for storage in storages_of(out) if storage._cdata not in self._alive]
        if made:
            # A result may be a view of an argument, such as a weight.
            given = {storage._cdata for storage in storages_of((args, kwargs))}
            for storage in made:
                if storage._cdata not in given and storage._cdata not in self._alive:
                    self._follow(storage)
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size, number = storage._cdata, storage.nbytes(), len(self.events)

        def gone(_: weakref.ref[torch.UntypedStorage]) -> None:
            del self._alive[key]
            self.now -= size
            self.events.append((number, None))

        self._alive[key] = weakref.ref(storage, gone)
        self.events.append((number, size))
        self.now += size
        self.peak = max(self.peak, self.now)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages under these tensors, each counted once."""
    return sum(storage_sizes(tensors))


def storage_sizes(tensors: Iterable[Tensor]) -> list[int]:
    """Bytes of each storage under these tensors, in order and without duplicates."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return list(storages.values())


def held_by(module: nn.Module) -> list[Tensor]:
    """A module's parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """Inside, attention counts as a fused kernel, which never holds the matrix of scores.

    On the meta device, PyTorch would otherwise use plain products, which no supported NVIDIA GPU needs.
    """
    plain = nn.functional.scaled_dot_product_attention

    def fused(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]

    nn.functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = plain
