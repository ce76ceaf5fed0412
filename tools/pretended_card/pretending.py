"""Puts the card in the place where PyTorch would have one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from tools.pretended_card.attention import attend
from tools.pretended_card.streams import Event, Stream
from tools.pretended_card.tensors import CARD, Card, CardGenerator, CardTensor

NAME, CAPABILITY = "pretended card", (8, 6)
MEMORY = 24 << 30
"""Bytes of a card without a limit."""
data_of = torch._C.TensorBase.data


@contextlib.contextmanager
def pretended(card: Card) -> Iterator[Card]:
    """Inside, the device "cuda" is the card."""
    torch._C._set_only_lift_cpu_tensors(True)
    cuda = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: CAPABILITY,
        "get_device_properties": lambda device=None: _properties(card),
        "get_arch_list": lambda: [f"sm_{CAPABILITY[0]}{CAPABILITY[1]}"],
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda device=None: (_memory(card) - card.allocator.reserved, _memory(card)),
        "memory_allocated": lambda device=None: card.allocator.allocated,
        "max_memory_allocated": lambda device=None: card.allocator.peak_allocated,
        "memory_reserved": lambda device=None: card.allocator.reserved,
        "max_memory_reserved": lambda device=None: card.allocator.peak_reserved,
        "reset_peak_memory_stats": lambda device=None: card.allocator.reset_peaks(),
        "empty_cache": card.allocator.empty,
        "synchronize": lambda device=None: card.sync("synchronize"),
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "Stream": card.order.new_stream,
        "Event": lambda **_: Event(card.order),
        "current_stream": lambda device=None: card.order.current,
        "default_stream": lambda device=None: card.order.main,
        "stream": lambda stream: card.order.running(stream if isinstance(stream, Stream) else None),
    }
    with contextlib.ExitStack() as stack:
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        for place, name, value in (
            (torch, "Generator", CardGenerator),
            (nn.functional, "scaled_dot_product_attention", attend),
            (nn.Module, "_apply", _apply),
        ):
            stack.enter_context(mock.patch.object(place, name, value))
        stack.enter_context(_data_exchanged())
        stack.enter_context(_several_at_once())
        stack.enter_context(card)
        yield card


def _memory(card: Card) -> int:
    return MEMORY if card.allocator.limit is None else card.allocator.limit


def _properties(card: Card) -> Any:
    major, minor = CAPABILITY
    return SimpleNamespace(
        name=NAME, total_memory=_memory(card), major=major, minor=minor, multi_processor_count=28, gcnArchName=""
    )


def _apply(module: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`: parameters stay who they are, wherever they go."""
    for child in module.children() if recurse else ():
        child._apply(fn)
    for parameter in module._parameters.values():
        if parameter is not None:
            with torch.no_grad():
                applied = fn(parameter)
            if applied is not parameter:
                parameter.data = applied
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = fn(buffer)
    return module


@contextlib.contextmanager
def _data_exchanged() -> Iterator[None]:
    """Inside, `tensor.data = other` works between the two devices, as with a real card."""
    torch.Tensor.data = property(data_of.__get__, _set_data)
    try:
        yield
    finally:
        del torch.Tensor.data


def _set_data(tensor: Tensor, value: Tensor) -> None:
    if isinstance(tensor, CardTensor) and isinstance(value, CardTensor):
        data_of.__set__(tensor, value)
        tensor.inner = value.inner
    elif isinstance(tensor, CardTensor) or isinstance(value, CardTensor):
        other: Any = nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value.detach()
        one: Any = tensor
        one.__class__, other.__class__ = other.__class__, one.__class__
        one.__dict__, other.__dict__ = other.__dict__, one.__dict__
        torch._C._swap_tensor_impl(one, other)
    else:
        data_of.__set__(tensor, value)


@contextlib.contextmanager
def _several_at_once() -> Iterator[None]:
    """Inside, optimizers work on all tensors of the card at once, as they do on a real one."""
    from torch.optim import optimizer
    from torch.utils import _foreach_utils

    kinds = (optimizer._foreach_supported_types, _foreach_utils._foreach_supported_types)
    for some in kinds:
        some.append(CardTensor)
    try:
        yield
    finally:
        for some in kinds:
            some.remove(CardTensor)


__all__ = ["CARD", "Card", "CardTensor", "pretended"]
