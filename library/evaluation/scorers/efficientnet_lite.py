"""EfficientNet-Lite0 (Google, 2020): a small image encoder, for when DINO is not available."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first, expansion, channels."""


class SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow does: for stride 2 more on the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        padding = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            whole = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [whole // 2, whole - whole // 2]
        return super().forward(F.pad(x, padding))


class Block(nn.Module):
    """Widen, look at each channel apart, narrow; what came in is added where the shape is the same."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inside * expansion
        self.adds = stride == 1 and inside == outside
        self.widens = expansion != 1
        if self.widens:
            self._expand_conv = SameConv(inside, width, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(width, 1e-3)
        self._depthwise_conv = SameConv(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = nn.BatchNorm2d(width, 1e-3)
        self._project_conv = SameConv(width, outside, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outside, 1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) to (B, outside, H', W')."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """Mean-pooled features, (N, 1280), of pictures (N, 3, 224, 224). Its names are those of the weights' file."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, 1e-3)
        blocks, inside = [], 32
        for count, kernel, stride, expansion, outside in STAGES:
            for number in range(count):
                blocks.append(Block(inside, outside, kernel, 1 if number else stride, expansion))
                inside = outside
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv(inside, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, 1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Features, (N, 1280)."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))
