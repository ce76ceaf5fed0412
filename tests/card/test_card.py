"""The pretended GPU rejects what a real GPU rejects, and tracks its memory as PyTorch does."""

import threading

import pytest
import torch

from benchmarks.kernels import Shape, attention, swap
from library.models.memory.allocator import MIB, CachingAllocator, gaps_of
from tests.helpers.on_card import Failed, alone


def two_devices(card):
    torch.ones(2, device="cuda") + torch.ones(2)


def a_generator_of_the_cpu(card):
    torch.randn(2, device="cuda", generator=torch.Generator())


def a_generator_of_the_card(card):
    torch.randn(2, generator=torch.Generator("cuda"))


def an_index_on_the_card(card):
    torch.ones(3)[torch.tensor([0], device="cuda")]


def two_dtypes(card):
    torch.ones(2, 2, device="cuda", dtype=torch.bfloat16) @ torch.ones(2, 2, device="cuda")


def two_dtypes_of_attention(card):
    query, key = torch.ones(1, 1, 4, 8, device="cuda"), torch.ones(1, 1, 4, 8, device="cuda").half()
    torch.nn.functional.scaled_dot_product_attention(query, key, key)


def numbers_for_numpy(card):
    torch.ones(2, device="cuda").numpy()


REFUSED = {
    two_devices: "at least two devices, cuda:0 and cpu",
    a_generator_of_the_cpu: "Expected a 'cuda' device type for generator",
    a_generator_of_the_card: "Expected a 'cpu' device type for generator",
    an_index_on_the_card: "indices should be either on cpu",
    two_dtypes: "same dtype",
    two_dtypes_of_attention: "same dtype",
    numbers_for_numpy: "numpy",
}


@pytest.mark.parametrize("mistake", REFUSED, ids=lambda work: work.__name__)
def test_it_refuses(process, mistake):
    with pytest.raises(Failed, match=REFUSED[mistake]):
        process(alone, mistake)


def what_is_allowed(card):
    layer = torch.nn.Linear(3, 2)
    weight = layer.weight
    kept = layer.to("cuda").weight is weight
    card.begin()
    x = torch.ones(3, device="cuda", requires_grad=True)
    there = torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    noise = torch.randn(3, device="cuda", generator=torch.Generator("cuda").manual_seed(3))
    ((x * torch.tensor(2.0) + there + noise)[torch.tensor([0, 1])]).sum().backward()
    return x.grad.device.type, weight.device.type, kept, dict(card.synchronisations)


def test_it_allows_and_has_gradients(process):
    assert process(alone, what_is_allowed) == ("cuda", "cuda", True, {})


def a_product(card):
    before = torch.ones(256, 1024, device="cuda")
    card.begin()
    product = before @ before.T
    float(product.sum())
    del product
    (waited,) = card.synchronisations
    return card.flops, card.kernels, card.memory.peak_allocated, card.memory.allocated, waited[0]


def test_it_counts_arithmetic_memory_and_waiting(process):
    flops, kernels, peak, left, waited = process(alone, a_product)
    assert (flops, kernels) == (2 * 256 * 256 * 1024, 2)
    assert (peak, left) == (MIB + 256 * 1024 + 512, MIB)
    assert waited == "a number is read"


def kernels_and_swapped_blocks(card):
    small = Shape(heads=2, tokens=16, width=8, blocks=3, layers=2, side=16, rows=4)
    return [attention("flash", small), swap(small)]


def test_attention_and_swapped_blocks_can_be_timed_on_a_card(process):
    attended, swapped = process(alone, kernels_and_swapped_blocks)
    assert attended["outcome"] == "works" and attended["ms"] > 0
    assert 0 <= swapped["overlap"] <= 1 and swapped["ms of copies"] > 0


def test_small_blocks_share_a_segment_and_large_ones_are_cut_from_it():
    memory = CachingAllocator()
    small = [memory.take(1) for _ in range(4)]
    assert (memory.allocated, memory.reserved) == (4 * 512, 2 * MIB)
    large = memory.take(6 * MIB)
    assert memory.reserved == 22 * MIB
    memory.take(6 * MIB)
    assert memory.reserved == 22 * MIB
    for address in [*small, large]:
        memory.give_back(address)
    assert (memory.allocated, memory.reserved) == (6 * MIB, 22 * MIB)
    memory.empty_cache()
    assert memory.reserved == 20 * MIB


def test_free_neighbours_become_one_block():
    memory = CachingAllocator()
    parts = [memory.take(6 * MIB) for _ in range(3)]
    for number in (0, 2, 1):
        memory.give_back(parts[number])
    memory.take(19 * MIB)
    assert memory.reserved == 20 * MIB


def test_gaps_are_reserved_and_not_allocated():
    memory = CachingAllocator()
    parts = [memory.take(6 * MIB) for _ in range(3)]
    memory.give_back(parts[0])
    memory.give_back(parts[2])
    memory.take(11 * MIB)
    assert (memory.allocated, memory.reserved) == (18 * MIB, 32 * MIB)
    memory.empty_cache()
    assert memory.reserved == 32 * MIB


def test_what_a_block_has_to_spare_is_a_gap_too():
    held = [11 * MIB + 1, 4, 12 * MIB]
    assert sum(held) + gaps_of(held, []) == (12 + 2 + 12) * MIB


def threads_of_a_backward_pass(card):
    one, threads = torch.ones(2, device="cuda", requires_grad=True), set()
    moved = (one * 2).cpu() * 3
    for tensor in (one, moved):
        tensor.register_hook(lambda gradient: threads.add(threading.get_ident()))
    moved.sum().backward()
    return len(threads | {threading.get_ident()})


def test_a_backward_pass_stays_in_its_thread(process):
    """PyTorch's engine has one thread per device; fake tensors sometimes fail if two threads compute at once."""
    assert process(alone, threads_of_a_backward_pass) == 1
