"""The simulated allocator keeps to the rules of CUDA's."""

import random

import pytest
import torch

from tools.pretended_card.allocator import MIB, CachingAllocator, Recorder, gets_through, least


def test_small_sizes_share_a_segment_and_large_ones_have_their_own():
    allocator = CachingAllocator()
    allocator.take(1)
    allocator.take(MIB)
    assert (allocator.allocated, allocator.reserved) == (512 + MIB, 2 * MIB)
    allocator.take(3 * MIB)
    assert allocator.reserved == 22 * MIB
    allocator.take(4 * MIB)
    assert allocator.reserved == 22 * MIB, "from what is left of the segment"
    allocator.take(33 * MIB)
    assert allocator.reserved == 56 * MIB, "rounded up to 2 MiB"


def test_what_is_given_back_is_used_again_and_goes_when_the_cache_is_emptied():
    allocator = CachingAllocator()
    first, second = allocator.take(30 * MIB), allocator.take(30 * MIB)
    allocator.give(first)
    allocator.take(29 * MIB)
    assert allocator.reserved == 60 * MIB
    allocator.give(second)
    allocator.empty()
    assert allocator.reserved == 30 * MIB and allocator.peak_allocated == 60 * MIB


def test_a_limit_runs_into_the_gaps_that_cannot_be_given_back():
    recorder = Recorder()
    for size in (3, 9, 3, 9, 3, 9):  # MiB; two share a segment of 20
        recorder.take(size * MIB)
    assert least(recorder.events) <= 2 * 20 * MIB
    recorder = Recorder()
    held = [recorder.take(9 * MIB) for _ in range(4)]
    recorder.give(held[0])
    recorder.give(held[2])
    recorder.take(18 * MIB)
    assert recorder.allocated == 36 * MIB and recorder.reserved == 58 * MIB
    assert not gets_through(recorder.events, 57 * MIB) and gets_through(recorder.events, 58 * MIB)
    assert least(recorder.events) == 58 * MIB


def test_books_are_kept_whatever_comes():
    chance, allocator, held = random.Random(0), CachingAllocator(), {}
    for _ in range(3000):
        if held and chance.random() < 0.5:
            allocator.give(_any(held, chance))
        else:
            size = int(2 ** chance.uniform(4, 27))
            address = allocator.take(size)
            assert all(address + size <= one or one + other <= address for one, other in held.items())
            held[address] = size
        if chance.random() < 0.02:
            allocator.empty()
        assert sum(held.values()) <= allocator.allocated <= allocator.reserved
    for address in held:
        allocator.give(address)
    allocator.empty()
    assert allocator.allocated == 0 == allocator.reserved


def _any(held: dict[int, int], chance: random.Random) -> int:
    address = chance.choice(list(held))
    del held[address]
    return address


def test_no_more_than_the_limit_is_given():
    allocator = CachingAllocator(limit=10 * MIB)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        allocator.take(11 * MIB)
    assert allocator.allocated == 0 == allocator.reserved
