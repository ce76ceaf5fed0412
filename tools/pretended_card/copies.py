"""What crosses between the card and the computer's memory, and what the program reads of the card."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tools.pretended_card.tensors import Card, CardTensor, Handler, made_up

aten = torch.ops.aten
CROSSES = "CPU to card"
COMES_BACK = "card to CPU"
READ = "a number"


def handler(*packets: Any) -> Any:
    """Registers what the card does in place of some operations."""

    def registered(made: Handler) -> Handler:
        Card.handlers.update(dict.fromkeys(packets, made))
        return made

    return registered


def key_of(tensor: Tensor) -> int:
    """What tells storages apart."""
    inner = tensor.inner if isinstance(tensor, CardTensor) else tensor
    return inner.untyped_storage()._cdata


@handler(aten._to_copy)
def to_copy(
    card: Card,
    given: Tensor,
    *,
    dtype: torch.dtype | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool | None = None,
    non_blocking: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """A copy of another type, or on another device."""
    dtype = dtype or given.dtype
    if not isinstance(given, CardTensor):
        return _upload(card, given, dtype, non_blocking, memory_format)
    kind = "cuda" if device is None else torch.device(device).type
    if kind == "meta":
        return torch.empty(given.shape, dtype=dtype, device=device)
    card.order.work("a copy", [key_of(given)], ())
    if kind == "cuda":
        card.kernels += 1
        return card.holding(aten._to_copy(given.inner, dtype=dtype, memory_format=memory_format))
    if dtype != given.dtype:  # is made another type before it crosses
        card.holding(torch.empty(given.shape, dtype=dtype, device=card.inside))
    if not non_blocking:
        card.sync(COMES_BACK, given.nbytes)
    out = card.read(given, dtype)
    if non_blocking:  # into pinned memory, and nobody waits
        card._pin(out)
        card.order.copies(key_of(out), to_program=True)
    return out


def _upload(card: Card, given: Tensor, dtype: torch.dtype, non_blocking: bool, memory_format: Any) -> Tensor:
    if card.numbers:
        inner = aten._to_copy(given, dtype=dtype, memory_format=memory_format)
    else:
        inner = torch.empty_like(given, dtype=dtype, device="meta")
    out = card.holding(inner)
    _leave(card, given, non_blocking and dtype == given.dtype)
    card.order.work("a copy to the card", (), [key_of(out)])
    return out


def _leave(card: Card, given: Tensor, non_blocking: bool) -> None:
    if non_blocking and card.is_pinned(given):
        card.order.copies(key_of(given), to_program=False)
    else:
        card.sync(CROSSES, given.nbytes)


@handler(aten.copy_)
def copy_(card: Card, to: Tensor, given: Tensor, non_blocking: bool = False) -> Tensor:
    """Copies what the second holds into the first."""
    if isinstance(to, CardTensor):
        card.order.work("a copy", [key_of(given)] if isinstance(given, CardTensor) else (), [key_of(to)])
        if isinstance(given, CardTensor):
            card.kernels += 1
            to.inner.copy_(given.inner)
        else:
            _leave(card, given, non_blocking and given.dtype == to.dtype)
            if card.numbers:
                to.inner.copy_(given)
        return to
    card.order.work("a copy", [key_of(given)], ())
    if non_blocking and card.is_pinned(to):
        card.order.copies(key_of(to), to_program=True)
    else:
        card.sync(COMES_BACK, given.nbytes)
    to.copy_(card.read(given))
    return to


@handler(aten._local_scalar_dense)
def number(card: Card, given: CardTensor) -> Any:
    """A number of the card."""
    card.order.work("a number", [key_of(given)], ())
    card.sync(READ)
    inner = given.inner if card.numbers else made_up((), given.dtype)
    return aten._local_scalar_dense(inner)


@handler(aten.is_nonzero)
def is_nonzero(card: Card, given: CardTensor) -> bool:
    """Whether a number is another than 0."""
    return bool(number(card, given))


@handler(aten.equal)
def equal(card: Card, one: Tensor, two: Tensor) -> bool:
    """Whether two tensors are the same."""
    if not (isinstance(one, CardTensor) and isinstance(two, CardTensor)):
        raise RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu in equal")
    card.sync(READ)
    return torch.equal(one.inner, two.inner) if card.numbers else True
