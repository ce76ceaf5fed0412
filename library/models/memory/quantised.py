"""Frozen linear layers stored in fewer bits (int8, fp8 or nf4) and converted back to 16 bits for each product.

Only the weights are rounded, never the activations, and every branch of a step uses the same rounded weights. So most
of the error is the same in two predictions and cancels in their difference. That is why int8 here is not bitsandbytes'
own layer, which rounds activations too.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from library.environment import imported
from library.errors import ModelError

Quantization = Literal["none", "int8", "fp8", "nf4"]

INT8_MOST, FP8_MOST = 127.0, 448.0
"""The largest value of each format."""
NF4_BLOCK = 64
"""Number of weights that share a scale in nf4."""


class QuantisedLinear(nn.Linear):
    """A frozen linear layer in fewer bits; only its input receives a gradient.

    Args:
        layer: the layer in 16 or 32 bits.
        kind: "int8", "fp8" (e4m3) or "nf4". The first two have one scale per output, nf4 one per 64 weights.
        device: where the weight is rounded and kept.

    Raises:
        ModelError: nf4 without bitsandbytes.
    """

    def __init__(self, layer: nn.Linear, kind: Quantization, device: torch.device) -> None:
        nn.Module.__init__(self)
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.kind = kind
        weight = layer.weight.detach().to(device)
        if kind == "nf4":
            codes, state = _bitsandbytes().quantize_4bit(weight, blocksize=NF4_BLOCK, quant_type="nf4")
            scales = state.absmax
            self.register_buffer("table", state.code)
        else:
            most, dtype = (INT8_MOST, torch.int8) if kind == "int8" else (FP8_MOST, torch.float8_e4m3fn)
            scales = weight.float().abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / most
            scaled = (weight.float() / scales).clamp(-most, most)
            codes = (scaled.round() if kind == "int8" else scaled).to(dtype)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.scales: Tensor
        self.register_buffer("scales", scales)
        bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().to(device), requires_grad=False)
        self.register_parameter("bias", bias)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The dequantized weight, (out, in)."""
        if self.kind != "nf4":
            return self.weight.to(dtype).mul_(self.scales)
        functional = _bitsandbytes()
        shape = torch.Size((self.out_features, self.in_features))
        state = functional.QuantState(
            absmax=self.scales, shape=shape, dtype=dtype, blocksize=NF4_BLOCK, quant_type="nf4", code=self.table
        )
        return functional.dequantize_4bit(self.weight, state)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the precision of x."""
        return _Product.apply(x, self)


class _Product(torch.autograd.Function):
    """x W^T + b. The backward pass unpacks the weight again: keeping it would undo what quantization saves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return nn.functional.linear(x, layer.unpacked(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.unpacked(gradient.dtype), None


def quantise(module: nn.Module, kind: Quantization, device: torch.device) -> None:
    """Replaces every linear layer inside `module`, one at a time, with one in fewer bits on `device`."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Linear) and not isinstance(layer, QuantisedLinear):
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, QuantisedLinear(layer, kind, device))


def _bitsandbytes() -> Any:
    try:
        return imported("bitsandbytes.functional")
    except Exception as error:  # a build for another CUDA can raise anything
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f'base_quantization = "nf4" needs bitsandbytes, which can\'t be used here: {reason}.',
            'pip install bitsandbytes, or set base_quantization = "int8", which needs no other package.',
        ) from error
