"""How fast a GPU's attention is by each kernel, and what swapped blocks cost it: python -m benchmarks.kernels

Attention has the shape of a pass of Stable Diffusion 3.5 Medium at 1024 x 1024, forward and backward. Swapped blocks
are as large as its own: what they take together with their copies is compared with both alone. Without an NVIDIA GPU
there is nothing to measure, and the rows say so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from library.environment import prepare_process
from library.errors import exit_code_of

TRIES = 5
KERNELS = ("flash", "efficient", "cudnn", "math", "xformers")
SWAP = "swapped blocks"
NEEDS_CUDA = "not tried: needs CUDA"


@dataclass(frozen=True)
class Shape:
    """What is computed.

    Attributes:
        heads, tokens, width: of attention, its pictures' and texts' tokens, and the width of a head.
        blocks, layers, side: of the swapped blocks, each with so many square layers.
        rows: of what the blocks compute on.
    """

    heads: int = 24
    tokens: int = 4096 + 154
    width: int = 64
    blocks: int = 12
    layers: int = 37
    side: int = 1536
    rows: int = 4250


def rows_for(shape: Shape) -> list[dict[str, Any]]:
    """A row for each kernel of attention, and one for swapped blocks."""
    import torch

    if not torch.cuda.is_available():
        return [{"what": name, "outcome": NEEDS_CUDA} for name in (*(f"attention, {one}" for one in KERNELS), SWAP)]
    return [*(attention(name, shape) for name in KERNELS), swap(shape)]


def attention(kernel: str, shape: Shape) -> dict[str, Any]:
    """Milliseconds of attention by one kernel, forward and backward; what can't be used says why."""
    import torch
    from torch.nn.attention import sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    from library.models.memory.residence import BACKENDS

    size = (1, shape.heads, shape.tokens, shape.width)
    query, key, value = (torch.randn(size, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in range(3))

    def by_xformers() -> torch.Tensor:
        from xformers.ops import memory_efficient_attention

        return memory_efficient_attention(*(one.transpose(1, 2) for one in (query, key, value)))

    def by_pytorch() -> torch.Tensor:
        with sdpa_kernel(BACKENDS[kernel]):
            return scaled_dot_product_attention(query, key, value)

    attend = by_xformers if kernel == "xformers" else by_pytorch
    row: dict[str, Any] = {"what": f"attention, {kernel}"}
    try:
        seconds = _best(lambda: attend().sum().backward())
    except (ImportError, RuntimeError, NotImplementedError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return {**row, "outcome": f"can't be used: {reason}"}
    return {**row, "outcome": "works", "ms": 1000 * seconds}


def swap(shape: Shape) -> dict[str, Any]:
    """Milliseconds of blocks that are swapped, that stay, and of their copies alone; and how much is done meanwhile."""
    import torch
    from torch import nn

    from library.models.memory.live_memory import held_by
    from library.models.memory.swap import BlockSwap

    def block() -> nn.Module:
        return nn.Sequential(*(nn.Linear(shape.side, shape.side, dtype=torch.bfloat16) for _ in range(shape.layers)))

    device = torch.device("cuda")
    x = torch.randn(shape.rows, shape.side, device=device, dtype=torch.bfloat16)
    staying, swapped = block().to(device), [block() for _ in range(shape.blocks)]
    bytes_each = sum(one.nbytes for one in held_by(staying))
    host = torch.empty(bytes_each, dtype=torch.uint8, pin_memory=True)
    place = torch.empty(bytes_each, dtype=torch.uint8, device=device)
    BlockSwap(swapped, [held_by(one) for one in swapped], device)

    def run(blocks: list[nn.Module]) -> None:
        for one in blocks:
            one(x)

    def copy() -> None:
        for _ in swapped:
            place.copy_(host, non_blocking=True)

    with torch.no_grad():
        together, alone = _best(lambda: run(swapped)), _best(lambda: run([staying] * shape.blocks))
        copies = _best(copy)
    shared = max(0.0, alone + copies - together) / min(alone, copies)
    return {
        "what": SWAP,
        "outcome": "works",
        "ms": 1000 * together,
        "ms resident": 1000 * alone,
        "ms of copies": 1000 * copies,
        "overlap": min(1.0, shared),
    }


def _best(work: Callable[[], object]) -> float:
    """Seconds of the best of some tries, the first of which warms up."""
    import torch

    seconds = []
    for _ in range(1 + TRIES):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])


def main() -> None:
    """Measures, and prints the rows as JSON."""
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    print(json.dumps(rows_for(Shape()), indent=1))


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
