"""Small checks on the pretended card: what it catches, and what our code does with a card that no whole run shows.

Each is a function without arguments that raises if something is wrong; test_card.py asks for the result of each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from library.models.memory.live_memory import held_by
from library.models.memory.swap import BlockSwap
from library.training.update import stochastically_rounded
from library.transfer import to_device
from tools.pretended_card.pretending import pretended
from tools.pretended_card.streams import Race, Stream
from tools.pretended_card.tensors import Card

CARD = torch.device("cuda")
CHECKS: dict[str, Callable[[], None]] = {}


def check(made: Callable[[], None]) -> Callable[[], None]:
    """Registers a check by its name."""
    CHECKS[made.__name__] = made
    return made


@contextlib.contextmanager
def refused(kind: type[BaseException], *words: str) -> Iterator[None]:
    """Inside, something must raise an error of that kind, with these words in it."""
    try:
        yield
    except kind as error:
        assert all(word in str(error) for word in words), f"it says: {error}"
    else:
        raise AssertionError("nothing was raised")


@check
def two_devices_in_one_operation() -> None:
    with pretended(Card()):
        on_card = torch.ones(3, device=CARD)
        with refused(RuntimeError, "same device"):
            _ = on_card + torch.ones(3)
        with refused(RuntimeError, "same device"):
            nn.functional.linear(on_card, torch.ones(2, 3))
        with refused(RuntimeError, "same device"):
            torch.cat([on_card, torch.ones(3)])
        assert (on_card + torch.tensor(1.0)).tolist() == [2, 2, 2]  # a number alone may stay where it is


@check
def indices_of_the_card_for_a_tensor_that_is_not() -> None:
    with pretended(Card()) as card:
        with refused(RuntimeError, "indices"):
            torch.arange(3)[torch.tensor([1], device=CARD)]
        assert torch.arange(3, device=CARD)[torch.tensor([1])].tolist() == [1]
        assert card.syncs.total() == 3, "both indices go over, and the result comes back"


@check
def generators_of_the_wrong_device() -> None:
    with pretended(Card()):
        with refused(RuntimeError, "generator"):
            torch.randn(3, device=CARD, generator=torch.Generator())
        with refused(RuntimeError, "generator"):
            torch.randn(3, generator=torch.Generator(CARD))
        with refused(RuntimeError, "generator"):
            stochastically_rounded(torch.ones(3, device=CARD), torch.Generator())
        stochastically_rounded(torch.ones(3, device=CARD), torch.Generator(CARD))


@check
def dtypes_that_do_not_fit() -> None:
    with pretended(Card()):
        x = torch.ones(1, 1, 2, 8, device=CARD, dtype=torch.bfloat16)
        with refused(RuntimeError, "dtype"):
            nn.functional.linear(x, torch.ones(2, 8, device=CARD))
        with refused(RuntimeError, "dtype"):
            nn.functional.scaled_dot_product_attention(x, x, x.float())


@check
def numbers_of_the_card_where_only_the_cpu_has_them() -> None:
    with pretended(Card()), refused(TypeError, "numpy"):
        torch.ones(3, device=CARD).numpy()


@check
def a_copy_that_is_read_before_it_arrives() -> None:
    with pretended(Card()):
        early = torch.ones(3, device=CARD).to("cpu", non_blocking=True)
        with refused(Race, "reads"):
            early.sum()
        torch.cuda.synchronize()
        assert early.sum() == 3


@check
def pinned_memory_that_is_written_while_a_copy_reads_it() -> None:
    with pretended(Card()) as card:
        pinned = torch.ones(3).pin_memory()
        pinned.to(CARD, non_blocking=True)
        assert not card.syncs
        with refused(Race, "writes"):
            pinned.add_(1)
        torch.ones(3).to(CARD, non_blocking=True)
        assert card.syncs.total() == 1, "what is not pinned waits, whatever it was asked to do"


@check
def what_is_repeated_can_not_be_pinned_but_goes_to_the_card() -> None:
    with pretended(Card()) as card:
        with refused(RuntimeError, "single memory location"):
            torch.ones(1).expand(3).pin_memory()
        there = to_device(torch.ones(1).expand(3), CARD)
        assert not card.syncs and there.tolist() == [1, 1, 1]


@check
def memory_that_is_given_back_and_memory_that_is_not_there() -> None:
    with pretended(Card(limit=64 << 20)) as card:
        kept = torch.empty(30 << 20, dtype=torch.uint8, device=CARD)
        with refused(torch.OutOfMemoryError, "out of memory"):
            torch.empty(40 << 20, dtype=torch.uint8, device=CARD)
        assert card.allocator.allocated == 30 << 20 == card.now
        del kept
        assert card.allocator.allocated == 0 and card.allocator.reserved == 30 << 20
        torch.empty(40 << 20, dtype=torch.uint8, device=CARD)
        assert card.allocator.peak_reserved == 40 << 20, "what was kept made room"


class Block(nn.Module):
    """Stands for a block of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return torch.tanh(self.linear(x))


def swapping(device: torch.device) -> Tensor:
    """The gradient of an input through blocks that are swapped, two times."""
    torch.manual_seed(0)
    blocks = nn.ModuleList([Block() for _ in range(4)]).requires_grad_(False)
    if device.type == "cuda":
        BlockSwap(list(blocks), [held_by(block) for block in blocks], device)
    x = torch.linspace(-1, 1, 8).expand(2, 8).clone().to(device).requires_grad_()
    for _ in range(2):
        out = x
        for block in blocks:
            out = checkpoint(block, out, use_reentrant=False)
        out.square().sum().backward()
    assert x.grad is not None
    return x.grad.cpu()


@check
def swapped_blocks_come_to_the_same_and_wait_where_they_have_to() -> None:
    wanted = swapping(torch.device("cpu"))
    with pretended(Card()):
        torch.testing.assert_close(swapping(CARD), wanted)


@check
def swapped_blocks_that_do_not_wait_for_their_copy() -> None:
    with pretended(Card()), mock.patch.object(Stream, "wait_event", lambda self, event: None), refused(Race, "reads"):
        swapping(CARD)


@check
def swapped_blocks_that_overwrite_what_is_in_use() -> None:
    with pretended(Card()), mock.patch.object(Stream, "wait_stream", lambda self, other: None), refused(Race, "writes"):
        swapping(CARD)
