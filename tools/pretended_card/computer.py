"""A computer with the pretended GPU: answers what PyTorch's Python side asks CUDA."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel  # noqa: F401  looks for GPUs while it is imported
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from tools.pretended_card.card import Card

GIB = 2**30
plain_data = torch._C.TensorBase.data
plain_attention = nn.functional.scaled_dot_product_attention


class Stream:
    """The GPU's only stream."""

    def __init__(self, device: Any = None, **_: Any) -> None:
        self.device = device

    def wait_stream(self, other: Any) -> None:
        """Does nothing: all work is already finished."""

    def wait_event(self, event: Any) -> None:
        """Does nothing: all work is already finished."""

    def synchronize(self) -> None:
        """Does nothing: all work is already finished."""


class Event:
    """An event that is always complete."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        """Does nothing."""

    def synchronize(self) -> None:
        """Does nothing: all work is already finished."""


@contextlib.contextmanager
def computer_with(card: Card, total: int = 24 * GIB) -> Iterator[Card]:
    """Inside, PyTorch uses the pretended GPU for everything on device "cuda".

    Args:
        total: bytes of memory that the GPU reports.
    """
    answers = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "Stream": Stream,
        "Event": Event,
        "current_stream": lambda device=None: Stream(device),
        "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda device=None: card.waits("synchronize"),
        "empty_cache": card.memory.empty_cache,
        "max_memory_allocated": lambda device=None: card.memory.peak_allocated,
        "reset_peak_memory_stats": lambda device=None: card.memory.reset_peaks(),
        "mem_get_info": lambda device=None: (total - card.memory.reserved, total),
        "get_device_name": lambda device=None: "pretended GPU",
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        stack.enter_context(patch.object(nn.functional, "scaled_dot_product_attention", attention))
        stack.enter_context(patch.object(nn.Module, "_apply", move_module))
        stack.enter_context(_data_set_by(set_data))
        stack.enter_context(_lifting_the_cpu_alone())
        # Fake tensors are not thread-safe: the backward pass would compute what is on the CPU in a second thread.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(card)
        yield card


def move_module(module: nn.Module, move: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, which moves modules: parameters stay the same objects, as on a real GPU."""
    for child in module.children() if recurse else ():
        move_module(child, move)
    with torch.no_grad():
        for parameter in [one for one in module._parameters.values() if one is not None]:
            become(parameter, move(parameter))
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else move(buffer)
    return module


def set_data(tensor: Tensor, other: Tensor) -> None:
    """`tensor.data = other`, also if only one of the two is a fake tensor."""
    kind, given = ((isinstance(one, FakeTensor), one.device) for one in (tensor, other))
    plain_data.__set__(tensor, other) if kind == given else become(tensor, other)


def become(tensor: Tensor, other: Tensor) -> None:
    """Turns `tensor` into `other`, without its gradient; it stays the same Python object."""
    if other is tensor:
        return
    twin = nn.Parameter(other.detach(), tensor.requires_grad)
    tensor.__class__, twin.__class__ = twin.__class__, tensor.__class__
    tensor.__dict__, twin.__dict__ = twin.__dict__, tensor.__dict__
    torch._C._swap_tensor_impl(tensor, twin)


@contextlib.contextmanager
def _data_set_by(setter: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """Inside, `tensor.data = other` calls `setter`."""
    torch.Tensor.data = property(plain_data.__get__, setter)
    try:
        yield
    finally:
        del torch.Tensor.data


@contextlib.contextmanager
def _lifting_the_cpu_alone() -> Iterator[None]:
    """Inside, `torch.tensor(..., device="cuda")` is made on the CPU and copied, as fake tensors require."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention by the kernel that a GPU uses: flash in 16 bits without a mask, otherwise the memory-efficient one."""
    if not isinstance(query, FakeTensor):
        return plain_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    half, head = query.dtype in (torch.float16, torch.bfloat16), query.shape[-1]
    if half and attn_mask is None and head <= 256 and head % 8 == 0:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
    bias = attn_mask
    if bias is not None:
        if bias.dtype == torch.bool:
            bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill(bias.logical_not(), float("-inf"))
        bias = bias.expand(*query.shape[:3], key.shape[2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, bias, query.requires_grad, dropout_p, is_causal, scale=scale)[0]
