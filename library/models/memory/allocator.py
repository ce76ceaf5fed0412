"""Simulates PyTorch's default CUDA caching allocator, to count what it reserves beyond its tensors."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MIB = 1 << 20
ROUNDED = 512
"""Every size is rounded up to a multiple of this many bytes."""
SMALL, SMALL_SEGMENT = MIB, 2 * MIB
"""Sizes up to the first value come from segments of the second."""
LARGE, LARGE_SEGMENT, LARGE_ROUNDED = 10 * MIB, 20 * MIB, 2 * MIB
"""Sizes below the first value come from segments of the second; others get their own, rounded up to the third."""
APART = 1 << 40
"""Bytes between the addresses of two segments, so that they never merge."""


@dataclass(eq=False)
class Block:
    """A part of a segment.

    Args:
        before, after: its neighbours in the segment.
        requested: bytes of it that were asked for.
    """

    address: int
    size: int
    small: bool
    before: Block | None = None
    after: Block | None = None
    free: bool = True
    requested: int = 0


class CachingAllocator:
    """Best fit, with splitting and merging. Only `empty_cache` gives segments back.

    Attributes:
        requested, allocated, reserved: bytes that were asked for, bytes of the blocks that they are in, and bytes that
            the allocator holds of the GPU.
        peak_requested, peak_allocated, peak_reserved: the most since `reset_peaks`.
    """

    def __init__(self) -> None:
        self.requested = self.allocated = self.reserved = 0
        self.reset_peaks()
        self._blocks: dict[int, Block] = {}
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._segments = 0

    def reset_peaks(self) -> None:
        """Restarts the peaks at the current values."""
        self.peak_requested, self.peak_allocated, self.peak_reserved = self.requested, self.allocated, self.reserved

    def take(self, requested: int) -> int:
        """Allocates a block of at least that many bytes and returns its address."""
        size = max(ROUNDED, _rounded(requested, ROUNDED))
        free = self._free[size <= SMALL]
        at = bisect.bisect_left(free, (size, 0))
        block = self._blocks[free.pop(at)[1]] if at < len(free) else self._segment_for(size)
        block.free = False
        self._cut(block, size)
        block.requested = requested
        self.requested += requested
        self.allocated += block.size
        self.peak_requested = max(self.peak_requested, self.requested)
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block.address

    def give_back(self, address: int) -> None:
        """Frees the block and merges it with its free neighbours."""
        block = self._blocks[address]
        self.requested -= block.requested
        self.allocated -= block.size
        for near in (block.before, block.after):
            if near is not None and near.free:
                self._free[near.small].remove((near.size, near.address))
        if block.after is not None and block.after.free:
            self._join(block, block.after)
        if block.before is not None and block.before.free:
            block = self._join(block.before, block)
        self._let_go(block)

    def empty_cache(self) -> None:
        """Gives back every segment that is entirely free."""
        for small, free in self._free.items():
            for size, address in free:
                if self._blocks[address].before is None and self._blocks[address].after is None:
                    self.reserved -= size
                    del self._blocks[address]
            self._free[small] = [one for one in free if one[1] in self._blocks]

    def _segment_for(self, size: int) -> Block:
        small = size <= SMALL
        whole = SMALL_SEGMENT if small else LARGE_SEGMENT if size < LARGE else _rounded(size, LARGE_ROUNDED)
        block = Block(self._segments * APART, whole, small)
        self._segments += 1
        self._blocks[block.address] = block
        self.reserved += whole
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return block

    def _cut(self, block: Block, size: int) -> None:
        """Splits off what a block has to spare, if it is enough."""
        spare = block.size - size
        if spare < ROUNDED if block.small else spare <= SMALL:
            return
        rest = Block(block.address + size, spare, block.small, block, block.after)
        if block.after is not None:
            block.after.before = rest
        block.size, block.after = size, rest
        self._blocks[rest.address] = rest
        self._let_go(rest)

    def _join(self, block: Block, following: Block) -> Block:
        """Merges two neighbours and returns the first, which is now both."""
        del self._blocks[following.address]
        block.size += following.size
        block.after = following.after
        if following.after is not None:
            following.after.before = block
        return block

    def _let_go(self, block: Block) -> None:
        block.free = True
        bisect.insort(self._free[block.small], (block.size, block.address))


Event = tuple[int, int | None]
"""A tensor's number, and its bytes when it is made, or None when it is freed."""


def play(memory: CachingAllocator, events: Iterable[Event]) -> Iterable[int]:
    """Allocates and frees what the events say; returns the addresses of what is left at the end."""
    places: dict[int, int] = {}
    for number, size in events:
        if size:
            places[number] = memory.take(size)
        elif number in places:
            memory.give_back(places.pop(number))
    return places.values()


def gaps_of(held: Iterable[int], rounds: Sequence[Sequence[Event]], kept: Iterable[int] = ()) -> int:
    """Bytes that the allocator holds of the GPU beyond what tensors take, both at their peaks.

    Args:
        held: bytes of each tensor that exists all the time.
        rounds: events that repeat.
        kept: bytes of each tensor that is made after the first round and stays, such as an optimizer's state.
    """
    memory = CachingAllocator()
    for size in held:
        memory.take(size)
    for turn, events in enumerate((*rounds[:1], *rounds, *rounds)):
        left = play(memory, events)
        for size in kept if turn == 0 else ():
            memory.take(size)
        for address in left:  # gradients, which exist until the next step starts
            memory.give_back(address)
    return memory.peak_reserved - memory.peak_requested


def _rounded(size: int, to: int) -> int:
    return -(-size // to) * to
