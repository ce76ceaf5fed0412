"""Tensors on the pretended card, and what happens when an operation meets them."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, NoneType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from tools.pretended_card.allocator import CachingAllocator
from tools.pretended_card.streams import Order

aten = torch.ops.aten
CARD, CPU, META = torch.device("cuda", 0), torch.device("cpu"), torch.device("meta")
Generator = torch.Generator
TAKES_INDICES_OF_THE_CPU = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
BY_NUMBERS = {aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.bincount, aten.unique_consecutive}
"""Operations whose result's shape follows from numbers on the card."""
FREE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten._unsafe_view}
"""Operations that start no kernel, besides views."""
ASKS_FOR_PINNED, PINS = {aten.is_pinned.default}, {aten.pin_memory.default, aten._pin_memory.default}
WORKSPACE = 2 * (2 * 4096 * 1024 + 8 * 16 * 1024)
"""What cuBLAS keeps from its first product on, `:4096:2:16:8`, in the program's thread and in the backward pass's."""
NOTHING: Mapping[str, Any] = MappingProxyType({})
Handler = Callable[..., Any]
"""Takes the card and an operation's own arguments."""


@dataclass(frozen=True, eq=False)
class Operation:
    """What is asked about an operation each time it runs."""

    func: Any
    handler: Handler | None
    computes: bool
    """It starts a kernel."""
    writes: bool
    by_numbers: bool
    takes_indices: bool


def operation_of(func: Any) -> Operation:
    """What is known of an operation of aten."""
    found = OPERATIONS.get(id(func))
    if found is None:
        packet = func._overloadpacket
        found = OPERATIONS[id(func)] = Operation(
            func,
            Card.handlers.get(packet),
            computes=not (func.is_view or packet in FREE or packet is aten.detach),
            writes=func._schema.is_mutable,
            by_numbers=packet in BY_NUMBERS,
            takes_indices=packet in TAKES_INDICES_OF_THE_CPU,
        )
    return found


PLAIN = {int, float, bool, str, NoneType, torch.dtype}
OPERATIONS: dict[int, Operation] = {}


class CardTensor(torch.Tensor):
    """A tensor on the card.

    Attributes:
        inner: what stands for it, on the CPU or, without numbers, on the meta device.
        card: the card that it is on.
    """

    inner: Tensor
    card: Card
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def around(inner: Tensor, card: Card) -> CardTensor:
        """The tensor that this one stands for."""
        made = torch.Tensor._make_wrapper_subclass(
            CardTensor,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CARD,
        )
        made.inner, made.card = inner, card
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        card = next(one.card for one in tree_iter((args, kwargs)) if isinstance(one, CardTensor))
        return card.run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Its numbers; the program waits for the card."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """As on a card.

        Raises:
            TypeError: always.
        """
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("a tensor on the card can't be pickled")

    def record_stream(self, stream: Any) -> None:
        """Nothing is given to others here before it is done with."""


class CardGenerator(Generator):
    """A generator of the card's; for the CPU, one of PyTorch's own."""

    of_card: ClassVar[set[int]] = set()
    """The addresses of those of the card's; operations are given other objects around the same ones."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return Generator.__new__(cls) if torch.device(device).type == "cuda" else Generator(device)

    def __init__(self, device: Any = "cpu") -> None:
        self.of_card.add(self._cdata)
        weakref.finalize(self, self.of_card.discard, self._cdata)

    @property
    def device(self) -> torch.device:
        """Where it draws."""
        return CARD


def is_of_card(generator: Any) -> bool:
    """Whether it is a generator of the card's."""
    return isinstance(generator, Generator) and generator._cdata in CardGenerator.of_card


class Card(TorchDispatchMode):
    """The card.

    Args:
        numbers: what lies on it has numbers, worked out on the CPU; else it has shapes alone, what is read from it is
            made up, and everything is much faster.
        limit: bytes of memory that PyTorch may reserve; None: any.

    Attributes:
        syncs: how often the program waited for the card, by what for and by the line of the library.
        moved: bytes that crossed, by the same.
        kernels: started on the card.
        flops: of them; not counted where there are numbers.
        allocator: its memory.
    """

    handlers: ClassVar[dict[Any, Handler]] = {}

    def __init__(self, numbers: bool = True, limit: int | None = None) -> None:
        super().__init__()
        self.inside = CPU if numbers else META
        self.numbers = numbers
        self.allocator, self.order = CachingAllocator(limit), Order()
        self.pinned: dict[int, weakref.ref[Any]] = {}
        self.alive: dict[int, weakref.ref[Any]] = {}
        self.now = self.peak = self.flops = self.kernels = 0
        self.syncs: Counter[tuple[str, str]] = Counter()
        self.moved: Counter[tuple[str, str]] = Counter()
        self._workspace: int | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # it would cost more than all the rest, and nothing is compiled here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if CardTensor in types:
            return self.run(func, args, kwargs or {})
        if kwargs:
            device = kwargs.get("device")
            if device is not None and torch.device(device).type == "cuda":
                return self.run(func, args, kwargs)
        return self._on_cpu(func, args, kwargs or {})

    # The computer's own memory

    def _on_cpu(self, func: Any, args: Any, kwargs: Any) -> Any:
        if kwargs:
            if is_of_card(kwargs.get("generator")):
                raise RuntimeError(f"Expected a 'cpu' device type for generator but found 'cuda' in {func}")
            if kwargs.get("pin_memory"):
                out = func(*args, **{**kwargs, "pin_memory": False})
                self._pin(out)
                return out
        if func in ASKS_FOR_PINNED:
            return self.is_pinned(args[0])
        if func in PINS:
            if torch._debug_has_internal_overlap(args[0]) == 1:
                raise RuntimeError("more than one element of the written-to tensor refers to a single memory location")
            out = args[0].clone()
            self._pin(out)
            return out
        if self.order.arriving or self.order.leaving:
            self._check_program(func, args, kwargs)
        return func(*args, **kwargs)

    def _check_program(self, func: Any, args: Any, kwargs: Any) -> None:
        given = [one for one in tree_iter((args, kwargs)) if isinstance(one, Tensor) and one.device.type == "cpu"]
        keys = {one.untyped_storage()._cdata for one in given}
        written = {given[0].untyped_storage()._cdata} if given and func._schema.is_mutable else set()
        if not (func.is_view or func._overloadpacket is aten.detach):
            self.order.touched_by_program(func, keys, written)

    def _pin(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        self.pinned[key] = weakref.ref(storage, lambda _: self.pinned.pop(key, None))

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor of the computer's memory is where copies need not wait."""
        return tensor.untyped_storage()._cdata in self.pinned

    # What runs on the card

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation that a tensor of the card has a part in, or that makes one.

        Raises:
            RuntimeError: as a card would.
        """
        what = operation_of(func)
        if what.handler is not None:
            return what.handler(self, *args, **kwargs)
        opened = _Opened(self, what)
        inner_args = [opened.all_of(one) for one in args]
        leaves = False
        if kwargs:
            device = kwargs.get("device")
            kwargs = {name: opened.all_of(one) for name, one in kwargs.items()}
            if device is not None:
                leaves, kwargs["device"] = torch.device(device).type != "cuda", self.inside
        opened.check_devices()
        if what.by_numbers or opened.masked:
            self.sync(f"shape follows from numbers: {func}")
        if what.computes:
            keys = [one.inner.untyped_storage()._cdata for one in opened.of_card]
            self.order.work(func, keys, keys[:1] if what.writes else ())
        out = func(*inner_args, **kwargs)
        if what.computes:
            self.ran(func, inner_args, out, kwargs)
        return out if leaves else self._wrapped(out, opened)

    def ran(self, func: Any, args: Any, out: Any, kwargs: Mapping[str, Any] = NOTHING) -> None:
        """Counts a kernel.

        Args:
            args, kwargs: what it was given, on the CPU or the meta device.
        """
        self.kernels += 1
        if self.numbers:
            return
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=out)
            if self._workspace is None:
                self._workspace = self.allocator.take(WORKSPACE)

    def _wrapped(self, out: Any, opened: _Opened) -> Any:
        if isinstance(out, Tensor):
            known = opened.known.get(id(out))
            if known is None:
                return self.holding(out)
            if known.shape != out.shape:
                raise NotImplementedError(f"{opened.what.func} changes the shape of what it works on")
            return known
        if isinstance(out, (list, tuple)):
            return type(out)([self._wrapped(one, opened) for one in out])
        return out

    def holding(self, inner: Tensor) -> CardTensor:
        """A tensor on the card, its storage followed."""
        self._follow(inner)
        return CardTensor.around(inner, self)

    def _follow(self, inner: Tensor) -> None:
        storage = inner.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return
        address = self.allocator.take(size) if size else None

        def gone(_: Any) -> None:
            del self.alive[key]
            self.order.forget(key)
            self.now -= size
            if address is not None:
                self.allocator.give(address)

        self.alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    # What crosses

    def sync(self, what: str, size: int = 0) -> None:
        """The program waits for the card."""
        key = (what, place_in_library())
        self.syncs[key] += 1
        self.moved[key] += size
        self.order.wait_for(self.order.current)

    def read(self, tensor: CardTensor, dtype: torch.dtype | None = None) -> Tensor:
        """Its numbers in the computer's memory; made up if there are none."""
        if self.numbers:
            return tensor.inner.to(dtype or tensor.dtype, copy=True)
        return made_up(tensor.shape, dtype or tensor.dtype)

    def reset(self) -> None:
        """Peaks and counts begin again."""
        self.peak, self.flops, self.kernels = self.now, 0, 0
        self.allocator.reset_peaks()
        self.syncs.clear()
        self.moved.clear()


class _Opened:
    """The arguments of an operation, what is on the card replaced by what stands for it.

    Attributes:
        known: the card's tensors by what stands for them.
        masked: some indices are masks, whose length follows from numbers.
    """

    def __init__(self, card: Card, what: Operation) -> None:
        self.card, self.what = card, what
        self.known: dict[int, CardTensor] = {}
        self.of_card: list[CardTensor] = []
        self.masked = False
        self._elsewhere: list[Tensor] = []

    def all_of(self, given: Any) -> Any:
        """The same with what stands for the tensors of the card."""
        kind = type(given)
        if kind is CardTensor:
            self.of_card.append(given)
            self.known[id(given.inner)] = given
            return given.inner
        if kind in PLAIN:
            return given
        if isinstance(given, Tensor):
            if given.dim():
                self._elsewhere.append(given)
            return given if self.card.numbers else given.to(META)
        if isinstance(given, (list, tuple)):
            if self.what.takes_indices and any(isinstance(one, Tensor) for one in given):
                return [None if one is None else self._index(one) for one in given]
            return type(given)([self.all_of(one) for one in given])
        if isinstance(given, Generator):
            if not is_of_card(given):
                raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' in {self.what.func}")
            return given if self.card.numbers else None
        return given

    def _index(self, given: Tensor) -> Tensor:
        self.masked |= given.dtype in (torch.bool, torch.uint8)
        if isinstance(given, CardTensor):
            if self._elsewhere:
                raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
            return self.all_of(given)
        if not self._elsewhere:
            self.card.sync("index on the CPU", given.nbytes)
        return given.to(self.card.inside)

    def check_devices(self) -> None:
        """All on one device, but for numbers that stand alone.

        Raises:
            RuntimeError: they are not.
        """
        if self.of_card and self._elsewhere:
            devices = f"cuda:0 and {self._elsewhere[0].device}"
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {devices} in {self.what.func}"
            )


def made_up(shape: Any, dtype: torch.dtype) -> Tensor:
    """Numbers that nobody worked out."""
    if dtype.is_floating_point:
        return torch.full(shape, 0.5).to(dtype)
    return torch.ones(shape, dtype=dtype)


def place_in_library() -> str:
    """The line of the library that runs now."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/library/" in name or "/benchmarks/" in name:
            return f"{name.split('/library/')[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "backward pass or elsewhere"
