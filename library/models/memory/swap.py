"""Block swapping: transformer blocks that live in the computer's memory and are copied to the device one at a time.

The base is frozen, so weights are copied to the device and never back. Two places on the device take turns: while a
block computes in one, the next is copied into the other. On an NVIDIA GPU, a separate stream copies from pinned memory.
The blocks at the end of the transformer stay on the device: the backward pass starts with them, and the places still
hold the blocks that it needs next.

A swapped block has to be recomputed in the backward pass: its weights are gone by then, and recomputing copies them
again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ALIGNMENT = 256
"""Every tensor of a block starts at a multiple of this many bytes."""


class _Layout:
    """Where each tensor of a block is in one flat buffer."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.begins: list[int] = []
        self.size = 0
        for tensor in self.tensors:
            self.begins.append(self.size)
            self.size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT

    def views(self, place: Tensor) -> list[Tensor]:
        """The block's tensors as views into a place."""
        return [
            place[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            for begin, tensor in zip(self.begins, self.tensors, strict=True)
        ]


class BlockSwap:
    """Takes over the weights of some blocks, in the order in which they run.

    Args:
        blocks: the blocks to swap, first to last.
        weights: for each block, the tensors to swap, on the CPU or on the device. What else a block holds, such as
            adapters, stays where it is. Afterwards the device holds two places for all blocks.
        device: where they compute.

    Attributes:
        layouts: where each block's tensors are in a place.
    """

    def __init__(self, blocks: Sequence[nn.Module], weights: Sequence[list[Tensor]], device: torch.device) -> None:
        self.bytes_moved = 0
        self.layouts = [_Layout(tensors) for tensors in weights]
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copied = [torch.cuda.Event() for _ in range(min(2, len(blocks)) if self._stream else 0)]
        self._host = [self._to_host(layout, device) for layout in self.layouts]
        largest, count = max(layout.size for layout in self.layouts), min(2, len(blocks))
        self.places = [torch.empty(largest, dtype=torch.uint8, device=device) for _ in range(count)]
        self._views = [[layout.views(place) for place in self.places] for layout in self.layouts]
        self._holds: list[int | None] = [None] * count
        self._last = 0
        for index, block in enumerate(blocks):
            self._point(index, 0)
            block.register_forward_pre_hook(lambda module, args, index=index: self._bring(index))

    @property
    def resident(self) -> list[int]:
        """The blocks that the places hold now."""
        return sorted(block for block in self._holds if block is not None)

    def _to_host(self, layout: _Layout, device: torch.device) -> Tensor:
        where = torch.device("meta") if device.type == "meta" else torch.device("cpu")
        host = torch.empty(layout.size, dtype=torch.uint8, device=where, pin_memory=device.type == "cuda")
        for view, tensor in zip(layout.views(host), layout.tensors, strict=True):
            view.copy_(tensor.detach())
            tensor.data = view  # frees the original, one tensor at a time
        return host

    def _bring(self, block: int) -> None:
        """Brings the block to the device, in time for any work that is queued there after this."""
        if block not in self._holds:
            self._copy(block, self._free_place())
        place = self._holds.index(block)
        if self._stream:
            torch.cuda.current_stream(self.places[place].device).wait_event(self._copied[place])
        following = self._following(block)
        self._last = block
        if following is not None and following not in self._holds:
            self._copy(following, 1 - place)

    def _free_place(self) -> int:
        """A place that does not hold the block that ran last."""
        return next((place for place, block in enumerate(self._holds) if block != self._last), 0)

    def _following(self, block: int) -> int | None:
        """The block that is likely to run next: upwards in a forward pass, downwards in a backward pass."""
        end = len(self.layouts) - 1
        if end == 0:
            return None
        if block == 0:
            return 1
        if block == end:
            return end - 1 if torch.is_grad_enabled() else 0
        return block + 1 if block > self._last else block - 1

    def _copy(self, block: int, place: int) -> None:
        host, size = self._host[block], self.layouts[block].size
        if self._stream:
            # Work that is already queued may still read this place.
            self._stream.wait_stream(torch.cuda.current_stream(self.places[place].device))
            with torch.cuda.stream(self._stream):
                self.places[place][:size].copy_(host, non_blocking=True)
                self._copied[place].record(self._stream)
        else:
            self.places[place][:size].copy_(host)
        self._holds[place] = block
        self.bytes_moved += size
        self._point(block, place)

    def _point(self, block: int, place: int) -> None:
        for tensor, view in zip(self.layouts[block].tensors, self._views[block][place], strict=True):
            tensor.data = view
