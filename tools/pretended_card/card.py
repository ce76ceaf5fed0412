"""The pretended GPU: it computes only shapes, dtypes and memory."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from library.models.memory.allocator import CachingAllocator

aten = torch.ops.aten
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}
"""Operations whose second argument holds indices, on the CPU or on the first argument's device."""
OF_ONE_DTYPE = {
    *(aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.native_layer_norm, aten.native_group_norm),
    *(aten._scaled_dot_product_flash_attention, aten._scaled_dot_product_efficient_attention),
}
"""Operations whose kernels need all tensors in one dtype, which fake tensors don't check."""
SIZED_BY_NUMBERS = ("nonzero", "masked_select", "unique", "bincount")
"""Operations that read values from the GPU to know the size of their result."""
WITHOUT_KERNEL = ("detach", "empty", "_unsafe_view", "view", "alias", "lift_fresh")
"""Operations besides views that launch no kernel."""
OURS = ("/library/", "/benchmarks/")
"""Code that can be named as the place of a synchronisation."""


class Card(TorchDispatchMode):
    """Inside, tensors on device "cuda" are fake tensors on this GPU.

    Attributes:
        memory: the allocator; every storage on the GPU has one of its blocks.
        operations, kernels, flops: counts since `begin`; kernels are the operations that launch one.
        synchronisations: how often the CPU waited for the GPU since `begin`, by reason and place.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memory = CachingAllocator()
        self._fake = FakeTensorMode(allow_non_fake_inputs=False)
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.begin()

    def begin(self) -> None:
        """Restarts all counts."""
        self.operations = self.kernels = self.flops = 0
        self.synchronisations: Counter[tuple[str, str]] = Counter()
        self.memory.reset_peaks()

    def waits(self, what: str) -> None:
        """Counts one wait of the CPU for the GPU."""
        self.synchronisations[what, _place()] += 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = _flat((*args, *kwargs.values()))
        fakes = [one for one in leaves if isinstance(one, FakeTensor)]
        wanted = kwargs.get("device")
        to_card = wanted is not None and torch.device(wanted).type == "cuda"
        packet = func._overloadpacket
        if packet is torch.ops.prim.device or not (fakes or to_card):
            return func(*args, **kwargs)
        _check_generators(leaves)
        if packet in (aten._local_scalar_dense, aten.is_nonzero, aten.equal):
            self.waits("a number is read")
            return _number(fakes[0]) if packet is aten._local_scalar_dense else True
        if packet is aten._to_copy and wanted is not None and not to_card:
            return self._from_card(fakes[0], kwargs)
        if packet is aten._to_copy and not fakes:
            return self._to_card(args[0], kwargs.get("dtype"), kwargs.get("non_blocking", False))
        if packet is aten.copy_ and not all(isinstance(one, FakeTensor) for one in args[:2]):
            return self._copied(*args)
        if packet in INDEXING:
            _check_indices(args[0], args[1])
        if packet in OF_ONE_DTYPE:
            _check_dtypes(packet, leaves)
        return self._computed(func, args, kwargs)

    def _computed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs an operation on the GPU; PyTorch checks devices, dtypes and shapes."""
        name = func._schema.name.removeprefix("aten::")
        if name.startswith(SIZED_BY_NUMBERS):
            self.waits(f"{name} has a size that depends on numbers")
        args, kwargs = tuple(map(self._as_fake, args)), {key: self._as_fake(one) for key, one in kwargs.items()}
        with self._fake:
            out = func(*args, **kwargs)
        if name == "_amp_foreach_non_finite_check_and_unscale_":
            args[1].number = 0.0  # all values were finite
        self.operations += 1
        self.kernels += not (func.is_view or name in WITHOUT_KERNEL)
        count = flop_registry.get(func._overloadpacket)
        self.flops += count(*args, **kwargs, out_val=out) if count else 0
        self._follow(_flat([out]))
        return out

    def _as_fake(self, given: Any) -> Any:
        """An argument with fake tensors on the CPU in place of its real ones."""
        if isinstance(given, (list, tuple)):
            return type(given)(map(self._as_fake, given))
        if not isinstance(given, Tensor) or isinstance(given, FakeTensor):
            return given
        return self._fake.from_tensor(given.detach())

    def _empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        with self._fake:
            made = torch.empty(shape, dtype=dtype, device="cuda")
        self._follow([made])
        return made

    def _to_card(self, tensor: Tensor, dtype: torch.dtype | None, non_blocking: bool) -> Tensor:
        if not non_blocking:
            self.waits("a copy to the GPU")
        return self._empty(tensor.shape, dtype or tensor.dtype)

    def _from_card(self, tensor: Tensor, kwargs: dict[str, Any]) -> Tensor:
        dtype = kwargs.get("dtype") or tensor.dtype
        if torch.device(kwargs["device"]).type == "meta":
            return torch.empty(tensor.shape, dtype=dtype, device="meta")
        self.waits("a copy from the GPU")
        return _made_up(torch.empty(tensor.shape, dtype=dtype))

    def _copied(self, to: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        """Copies from the CPU to the GPU or back."""
        if not isinstance(to, FakeTensor):
            self.waits("a copy from the GPU")
            return _made_up(to)
        if not non_blocking:
            self.waits("a copy to the GPU")
        with self._fake:
            return to.copy_(torch.empty(source.shape, dtype=source.dtype, device="cuda"))

    def _follow(self, made: Iterable[Any]) -> None:
        """Gives every storage on the GPU a block of its memory, for as long as the storage lives."""
        for one in made:
            if not isinstance(one, FakeTensor) or one.device.type != "cuda":
                continue
            storage = one.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._alive and size:
                address = self.memory.take(size)

                def gone(_: Any, key: int = key, address: int = address) -> None:
                    del self._alive[key]
                    self.memory.give_back(address)

                self._alive[key] = weakref.ref(storage, gone)


def _flat(arguments: Iterable[Any]) -> list[Any]:
    """Arguments or results of an operation, with the items of lists in place of the lists."""
    flat: list[Any] = []
    for one in arguments:
        flat.extend(one) if isinstance(one, (list, tuple)) else flat.append(one)
    return flat


def _made_up(tensor: Tensor) -> Tensor:
    """Fills a tensor on the CPU with made-up values: 0.5, or 1 if it isn't floating-point."""
    return tensor.fill_(0.5 if tensor.dtype.is_floating_point else 1)


def _number(tensor: Any) -> Any:
    if hasattr(tensor, "number"):
        return tensor.number
    return True if tensor.dtype is torch.bool else 0.5 if tensor.dtype.is_floating_point else 1


def _check_generators(leaves: Iterable[Any]) -> None:
    for one in leaves:
        if isinstance(one, torch.Generator) and one.device.type != "cuda":
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found '{one.device.type}'")


def _check_dtypes(packet: Any, leaves: Iterable[Any]) -> None:
    found = dict.fromkeys(one.dtype for one in leaves if isinstance(one, Tensor))
    if len(found) > 1:
        raise RuntimeError(f"{packet} expected tensors of the same dtype, but got {', '.join(map(str, found))}")


def _check_indices(tensor: Tensor, indices: Iterable[Tensor | None]) -> None:
    for one in indices:
        if one is not None and one.device.type not in ("cpu", tensor.device.type):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor "
                f"({tensor.device.type}), but one is on {one.device.type}"
            )


def _place() -> str:
    """The innermost line of our own code on the call stack."""
    frame = sys._getframe(1)
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in OURS):
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
