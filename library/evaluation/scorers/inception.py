"""FID's Inception: Szegedy et al.'s v3 as TensorFlow released it on 2015-12-05, which FID and KID are defined by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

SIDE = 299
"""Side of its input, in pixels."""


def fid_input(images: Sequence[Image.Image]) -> Tensor:
    """(N, 3, 299, 299) in -1 .. 1: PIL's bicubic, which smooths when it shrinks, as clean-fid has it."""
    from library.evaluation.scorers.pixels import as_tensor

    size = (SIDE, SIDE)
    return torch.stack([as_tensor(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)) for image in images])


class ConvNorm(nn.Module):
    """Convolution, batch norm without a scale, ReLU."""

    beta: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, inside: int, outside: int, kernel: tuple[int, int], stride: int = 1, same: bool = True) -> None:
        super().__init__()
        self.stride = stride
        self.padding = tuple(side // 2 for side in kernel) if same else (0, 0)
        self.weight = nn.Parameter(torch.zeros(outside, inside, *kernel))
        for name in ("beta", "mean", "var"):
            self.register_buffer(name, torch.zeros(outside))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) to (B, outside, H', W')."""
        x = F.conv2d(x, self.weight, stride=self.stride, padding=self.padding)
        return F.relu(F.batch_norm(x, self.mean, self.var, None, self.beta, eps=1e-3))


Steps = Sequence[tuple[int, int, int]]
"""Convolutions one after the other: (outside, height, width) each."""


def _tower(inside: int, steps: Steps, halves: bool = False) -> nn.Sequential:
    """Convolutions; the last one halves the size if `halves`."""
    tower = nn.Sequential()
    for number, (outside, height, width) in enumerate(steps):
        stride = 2 if halves and number == len(steps) - 1 else 1
        convolution = ConvNorm(inside, outside, (height, width), stride, same=stride == 1)
        tower.add_module(f"conv_{number}" if number else "conv", convolution)
        inside = outside
    return tower


def _mean_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class Mixed(nn.Module):
    """A block that keeps the size: one convolution, two towers, and a pooled branch."""

    def __init__(self, inside: int, first: int, one: Steps, two: Steps, pooled: int) -> None:
        super().__init__()
        self.conv = ConvNorm(inside, first, (1, 1))
        self.tower = _tower(inside, one)
        self.tower_1 = _tower(inside, two)
        self.tower_2 = _tower(inside, [(pooled, 1, 1)])

    def forward(self, x: Tensor) -> Tensor:
        """Channels of all branches together."""
        return torch.cat([self.conv(x), self.tower(x), self.tower_1(x), self.tower_2(_mean_pool(x))], 1)


class MixedHalving(nn.Module):
    """A block that halves the size: towers whose last convolution has stride 2, and a max pool.

    Args:
        first: channels of a single convolution with stride 2; None: none.
    """

    def __init__(self, inside: int, first: int | None, towers: Sequence[Steps]) -> None:
        super().__init__()
        self.conv = ConvNorm(inside, first, (3, 3), 2, same=False) if first else None
        self.towers = [f"tower_{number}" if number else "tower" for number in range(len(towers))]
        for name, steps in zip(self.towers, towers, strict=True):
            self.add_module(name, _tower(inside, steps, halves=True))

    def forward(self, x: Tensor) -> Tensor:
        """Channels of all branches together."""
        branches = [self.conv(x)] if self.conv else []
        return torch.cat([*branches, *(getattr(self, name)(x) for name in self.towers), F.max_pool2d(x, 3, 2)], 1)


class MixedWide(nn.Module):
    """The last two blocks, whose towers end in a row and a column beside each other.

    Args:
        max_pooled: the last one pools by the maximum: a slip of 2015 that the numbers depend on.
    """

    def __init__(self, inside: int, max_pooled: bool) -> None:
        super().__init__()
        self.max_pooled = max_pooled
        self.conv = ConvNorm(inside, 320, (1, 1))
        self.tower_conv = ConvNorm(inside, 384, (1, 1))
        self.tower_mixed_conv = ConvNorm(384, 384, (1, 3))
        self.tower_mixed_conv_1 = ConvNorm(384, 384, (3, 1))
        self.tower_1_conv = ConvNorm(inside, 448, (1, 1))
        self.tower_1_conv_1 = ConvNorm(448, 384, (3, 3))
        self.tower_1_mixed_conv = ConvNorm(384, 384, (1, 3))
        self.tower_1_mixed_conv_1 = ConvNorm(384, 384, (3, 1))
        self.tower_2_conv = ConvNorm(inside, 192, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Channels of all branches together, 2048."""
        a, b = self.tower_conv(x), self.tower_1_conv_1(self.tower_1_conv(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.max_pooled else _mean_pool(x)
        branches = [self.conv(x), self.tower_mixed_conv(a), self.tower_mixed_conv_1(a)]
        branches += [self.tower_1_mixed_conv(b), self.tower_1_mixed_conv_1(b), self.tower_2_conv(pooled)]
        return torch.cat(branches, 1)


def _small(inside: int, pooled: int) -> Mixed:
    return Mixed(inside, 64, [(48, 1, 1), (64, 5, 5)], [(64, 1, 1), (96, 3, 3), (96, 3, 3)], pooled)


def _long(width: int) -> Mixed:
    one = [(width, 1, 1), (width, 1, 7), (192, 7, 1)]
    two = [(width, 1, 1), (width, 7, 1), (width, 1, 7), (width, 7, 1), (192, 1, 7)]
    return Mixed(768, 192, one, two, 192)


class FidInception(nn.Module):
    """Pooled features, (N, 2048), of pictures (N, 3, 299, 299) in -1 .. 1. Its names are those of the weights' file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvNorm(3, 32, (3, 3), 2, same=False)
        self.conv_1 = ConvNorm(32, 32, (3, 3), same=False)
        self.conv_2 = ConvNorm(32, 64, (3, 3))
        self.conv_3 = ConvNorm(64, 80, (1, 1))
        self.conv_4 = ConvNorm(80, 192, (3, 3), same=False)
        self.mixed = _small(192, 32)
        self.mixed_1 = _small(256, 64)
        self.mixed_2 = _small(288, 64)
        self.mixed_3 = MixedHalving(288, 384, [[(64, 1, 1), (96, 3, 3), (96, 3, 3)]])
        self.mixed_4 = _long(128)
        self.mixed_5 = _long(160)
        self.mixed_6 = _long(160)
        self.mixed_7 = _long(192)
        self.mixed_8 = MixedHalving(
            768, None, [[(192, 1, 1), (320, 3, 3)], [(192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3)]]
        )
        self.mixed_9 = MixedWide(1280, max_pooled=False)
        self.mixed_10 = MixedWide(2048, max_pooled=True)

    def forward(self, x: Tensor) -> Tensor:
        """Features, (N, 2048)."""
        x = F.max_pool2d(self.conv_2(self.conv_1(self.conv(x))), 3, 2)
        x = F.max_pool2d(self.conv_4(self.conv_3(x)), 3, 2)
        for number in range(11):
            x = getattr(self, f"mixed_{number}" if number else "mixed")(x)
        return x.mean((2, 3))
