"""Attention as a card does it: by fused kernels that never hold the matrix of scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tools.pretended_card.copies import handler
from tools.pretended_card.tensors import Card, CardTensor

aten = torch.ops.aten
plain = nn.functional.scaled_dot_product_attention
MOST_OF_FLASH = 256
"""The widest head of the flash kernel."""
QUERIES_AT_ONCE = 128
"""The flash kernel's sums of gradients have a multiple of so many queries."""


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention`, which a PyTorch without CUDA can't do for the device "cuda"."""
    given = (query, key, value, *(() if attn_mask is None else (attn_mask,)))
    if not any(isinstance(one, CardTensor) for one in given):
        return plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if not all(isinstance(one, CardTensor) for one in given):
        raise RuntimeError("Expected query, key, value and mask to be on the same device")
    if len({one.dtype for one in (query, key, value)}) > 1:
        raise RuntimeError("Expected query, key, and value to have the same dtype")
    if attn_mask is None and query.dtype != torch.float32 and query.shape[-1] <= MOST_OF_FLASH:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    bias = _bias(query, key, attn_mask)
    learns = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, learns, dropout_p, is_causal, scale=scale
    )[0]


def _bias(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor | None:
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask.logical_not(), float("-inf"))
    elif mask.dtype != query.dtype:
        raise RuntimeError(f"Expected attn_mask dtype to be bool or that of the query, {query.dtype}, not {mask.dtype}")
    return mask.expand(*query.shape[:-1], key.shape[-2])


def _inner(given: Any) -> Any:
    return given.inner if isinstance(given, CardTensor) else given


def _holding(card: Card, made: Any) -> Any:
    return tuple(card.holding(one) if isinstance(one, Tensor) else one for one in made)


@handler(aten._scaled_dot_product_flash_attention)
def flash(
    card: Card,
    query: CardTensor,
    key: CardTensor,
    value: CardTensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> Any:
    """The kernel for 16 bits and no mask."""
    operation = aten._scaled_dot_product_flash_attention
    if card.numbers:
        out, sums = _forward(query, key, value, None, dropout_p, is_causal, scale)
        empty = [torch.empty(0, dtype=torch.int64) for _ in range(5)]
        made = (out, sums, *empty[:2], query.shape[2], key.shape[2], *empty[2:])
    else:
        made = operation(query.inner, key.inner, value.inner, dropout_p, is_causal, return_debug_mask, scale=scale)
    card.ran(operation.default, (query.inner, key.inner, value.inner), made)
    return _holding(card, made)


@handler(aten._scaled_dot_product_efficient_attention)
def efficient(
    card: Card,
    query: CardTensor,
    key: CardTensor,
    value: CardTensor,
    bias: CardTensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> Any:
    """The kernel for all else."""
    operation = aten._scaled_dot_product_efficient_attention
    given = (query.inner, key.inner, value.inner, _inner(bias), compute_log_sumexp)
    if card.numbers:
        empty = [torch.empty(0, dtype=torch.int64) for _ in range(2)]
        made = (*_forward(query, key, value, bias, dropout_p, is_causal, scale), *empty)
    else:
        made = operation(*given, dropout_p, is_causal, scale=scale)
    card.ran(operation.default, given, made)
    return _holding(card, made)


def _forward(
    query: CardTensor,
    key: CardTensor,
    value: CardTensor,
    bias: CardTensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    return aten._scaled_dot_product_flash_attention_for_cpu(
        query.inner, key.inner, value.inner, dropout_p, is_causal, attn_mask=_inner(bias), scale=scale
    )


@handler(aten._scaled_dot_product_flash_attention_backward)
def flash_backward(card: Card, *given: Any, scale: float | None = None) -> Any:
    """Sums gradients of the queries in float32, in memory of its own."""
    inner = [_inner(one) for one in given]
    gradient, query, key, value, out, sums = inner[:6]
    dropout, causal = inner[10:12]
    batch, heads, queries, width = query.shape
    rows = -(-queries // QUERIES_AT_ONCE) * QUERIES_AT_ONCE
    workspace = [
        card.holding(torch.empty(shape, dtype=torch.float32, device=card.inside))
        for shape in ((batch, heads, rows, width), (batch, heads, rows))
    ]
    if card.numbers:
        made = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, query, key, value, out, sums, dropout, causal, scale=scale
        )
    else:
        made = aten._scaled_dot_product_flash_attention_backward(*inner, scale=scale)
    card.ran(aten._scaled_dot_product_flash_attention_backward.default, inner, made)
    del workspace
    return _holding(card, made)


@handler(aten._scaled_dot_product_efficient_attention_backward)
def efficient_backward(card: Card, *given: Any, scale: float | None = None) -> Any:
    """The same of the other kernel."""
    inner = [_inner(one) for one in given]
    gradient, query, key, value, bias, out, sums, _, _, dropout = inner[:10]
    causal = inner[11] if len(inner) > 11 else False
    if card.numbers:
        made = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, query, key, value, out, sums, dropout, causal, attn_mask=bias, scale=scale
        )
        made = (*made, None)
    else:
        made = aten._scaled_dot_product_efficient_attention_backward(*inner, scale=scale)
    card.ran(aten._scaled_dot_product_efficient_attention_backward.default, inner, made)
    return _holding(card, made)
