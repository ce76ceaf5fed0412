"""CUDA's caching allocator as PyTorch has it by its defaults, on sizes alone."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import torch

MIB = 2**20
ROUND = 512
"""Every size is a multiple of it."""
SMALL = 1 * MIB
"""At most so many bytes come from segments of `SMALL_SEGMENT`."""
SMALL_SEGMENT, LARGE_SEGMENT = 2 * MIB, 20 * MIB
LEAST_OF_ITS_OWN, ROUND_OF_ITS_OWN = 10 * MIB, 2 * MIB
"""From so many bytes on a segment is made for the request alone, rounded up to the second."""
STEP = 16 * MIB
"""How finely `least` looks."""
FAR = 2**40
"""Between the addresses of two segments, so that no two of them touch."""


@dataclass
class Block:
    """A piece of a segment."""

    size: int
    small: bool
    before: int | None = None
    after: int | None = None
    free: bool = True


class CachingAllocator:
    """Best fit, splitting, merging; segments are kept until the cache is emptied, or until there is no room.

    Args:
        limit: bytes that it may reserve; None: any.

    Attributes:
        allocated, peak_allocated, reserved, peak_reserved: bytes.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.allocated = self.peak_allocated = self.reserved = self.peak_reserved = self._top = 0
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._blocks: dict[int, Block] = {}

    def take(self, size: int) -> int:
        """An address for so many bytes.

        Raises:
            torch.OutOfMemoryError: the limit is reached.
        """
        size = max(ROUND, -(-size // ROUND) * ROUND)
        small = size <= SMALL
        free = self._free[small]
        place = bisect.bisect_left(free, (size, 0))
        address = free.pop(place)[1] if place < len(free) else self._new_segment(size, small)
        self._split(address, size)
        self._blocks[address].free = False
        self.allocated += self._blocks[address].size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return address

    def give(self, address: int) -> None:
        """Gives back what `take` gave; free neighbours become one."""
        block = self._blocks[address]
        self.allocated -= block.size
        block.free = True
        if block.after is not None and self._blocks[block.after].free:
            self._forget_free(block.after)
            self._merge(address, block.after)
        if block.before is not None and self._blocks[block.before].free:
            address = block.before
            self._forget_free(address)
            self._merge(address, self._blocks[address].after)
        block = self._blocks[address]
        bisect.insort(self._free[block.small], (block.size, address))

    def empty(self) -> None:
        """As torch.cuda.empty_cache: what no tensor uses of it goes back."""
        for small, free in self._free.items():
            kept = []
            for size, address in free:
                block = self._blocks[address]
                if block.before is None and block.after is None:
                    self.reserved -= size
                    del self._blocks[address]
                else:
                    kept.append((size, address))
            self._free[small] = kept

    def reset_peaks(self) -> None:
        """The peaks are what there is now."""
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def _new_segment(self, size: int, small: bool) -> int:
        if small:
            segment = SMALL_SEGMENT
        elif size < LEAST_OF_ITS_OWN:
            segment = LARGE_SEGMENT
        else:
            segment = -(-size // ROUND_OF_ITS_OWN) * ROUND_OF_ITS_OWN
        if self.limit is not None and self.reserved + segment > self.limit:
            self.empty()
        if self.limit is not None and self.reserved + segment > self.limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size / MIB:.2f} MiB.")
        address, self._top = self._top, self._top + FAR
        self._blocks[address] = Block(segment, small)
        self.reserved += segment
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return address

    def _split(self, address: int, size: int) -> None:
        block = self._blocks[address]
        rest = block.size - size
        if rest < ROUND or (not block.small and rest <= SMALL):
            return
        other = address + size
        self._blocks[other] = Block(rest, block.small, address, block.after)
        if block.after is not None:
            self._blocks[block.after].before = other
        block.size, block.after = size, other
        bisect.insort(self._free[block.small], (rest, other))

    def _merge(self, first: int, second: int | None) -> None:
        assert second is not None
        kept, gone = self._blocks[first], self._blocks.pop(second)
        kept.size, kept.after = kept.size + gone.size, gone.after
        if gone.after is not None:
            self._blocks[gone.after].before = first

    def _forget_free(self, address: int) -> None:
        block = self._blocks[address]
        self._free[block.small].remove((block.size, address))


@dataclass(frozen=True)
class Event:
    """Something taken, or given back.

    Args:
        number: of what was taken, counted from 0.
        size: bytes; None: it is given back.
    """

    number: int
    size: int | None


class Recorder(CachingAllocator):
    """Keeps what was taken and given back, and the peaks of each phase.

    Attributes:
        peaks: bytes allocated and reserved at most, by phase.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.peaks: dict[str, tuple[int, int]] = {}
        self._phase = "before"
        self._numbers: dict[int, int] = {}
        self._taken = 0

    def take(self, size: int) -> int:
        """See `CachingAllocator`."""
        address = super().take(size)
        self._numbers[address] = self._taken
        self.events.append(Event(self._taken, size))
        self._taken += 1
        allocated, reserved = self.peaks.get(self._phase, (0, 0))
        self.peaks[self._phase] = (max(allocated, self.allocated), max(reserved, self.reserved))
        return address

    def give(self, address: int) -> None:
        """See `CachingAllocator`."""
        super().give(address)
        self.events.append(Event(self._numbers.pop(address), None))

    def mark(self, phase: str) -> None:
        """A phase begins."""
        self._phase = phase


def gets_through(events: Sequence[Event], limit: int) -> bool:
    """Whether an allocator with so many bytes can give all that was taken."""
    allocator, addresses = CachingAllocator(limit), dict[int, int]()
    try:
        for event in events:
            if event.size is None:
                allocator.give(addresses.pop(event.number))
            else:
                addresses[event.number] = allocator.take(event.size)
    except torch.OutOfMemoryError:
        return False
    return True


def least(events: Sequence[Event]) -> int:
    """Bytes with which an allocator gets through, to `STEP` more than the fewest."""
    free, addresses = CachingAllocator(), dict[int, int]()
    for event in events:
        if event.size is None:
            free.give(addresses.pop(event.number))
        else:
            addresses[event.number] = free.take(event.size)
    low, high = free.peak_allocated, free.peak_reserved
    while high - low > STEP:
        middle = (low + high) // 2
        if gets_through(events, middle):
            high = middle
        else:
            low = middle
    return high
