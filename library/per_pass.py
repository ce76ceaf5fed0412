"""A value that holds for one pass through the model, and for the recomputation of that pass.

Gradient checkpointing runs a block again in the backward pass, when another pass may have set other values. So what a
pass depends on is kept here, where `recompute_contexts` can store and restore it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerPass(Generic[T]):
    """Holds a value while a `with` block runs."""

    def __init__(self, default: T) -> None:
        self.value = default

    @contextlib.contextmanager
    def set_to(self, value: T) -> Iterator[None]:
        """Inside, the value is `value`; afterwards it is the previous one."""
        before, self.value = self.value, value
        try:
            yield
        finally:
            self.value = before


def recompute_contexts(
    kept: Sequence[PerPass[Any]],
) -> Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """`context_fn` for `torch.utils.checkpoint`: the recomputation sees the values of the pass it belongs to."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        values = [state.value for state in kept]
        return contextlib.nullcontext(), _all_set(kept, values)

    return contexts


@contextlib.contextmanager
def _all_set(kept: Sequence[PerPass[Any]], values: Sequence[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for state, value in zip(kept, values, strict=True):
            stack.enter_context(state.set_to(value))
        yield
