"""Streams and events of the pretended card, and who may read or write what when.

A real card runs the work of two streams in any order that nothing forbids. Here all of it runs at once, in the order of
the program; instead, every access is compared with those of other streams before it, and one that nothing puts behind
them is a race. The same goes for the computer's own memory: what a copy that does not wait still reads or writes.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Clock = dict[int, int]
"""How far each stream has come, by its number."""


class Race(RuntimeError):
    """Two accesses of the same memory that nothing puts in order."""


class Stream:
    """As torch.cuda.Stream."""

    def __init__(self, order: Order, number: int) -> None:
        self._order, self.number = order, number
        self.knows: Clock = {}

    @property
    def now(self) -> Clock:
        """All that what comes next on it is behind."""
        return {**self.knows, self.number: self._order.at[self.number]}

    def wait_stream(self, other: Stream) -> None:
        """What comes from now on comes behind all of the other's so far."""
        follow(self.knows, other.now)

    def wait_event(self, event: Event) -> None:
        """What comes from now on comes behind the event."""
        follow(self.knows, event.knows)

    def synchronize(self) -> None:
        """The program waits for all of it."""
        self._order.wait_for(self)

    def record_event(self, event: Event | None = None) -> Event:
        """Marks the place."""
        event = event or Event(self._order)
        event.record(self)
        return event


class Event:
    """As torch.cuda.Event."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.knows: Clock = {}

    def record(self, stream: Stream | None = None) -> None:
        """Is reached when the stream gets here."""
        self.knows = (stream or self._order.current).now

    def synchronize(self) -> None:
        """The program waits for it."""
        follow(self._order.program, self.knows)

    def query(self) -> bool:
        """Whether it is reached."""
        return True

    def elapsed_time(self, other: Event) -> float:
        """Milliseconds between the two; nothing takes time here."""
        return 1.0


def follow(clock: Clock, other: Mapping[int, int]) -> None:
    """The clock is at least where the other is."""
    for number, at in other.items():
        clock[number] = max(clock.get(number, 0), at)


class Order:
    """What has been read and written by which stream, in storages on the card and in the computer's memory.

    Attributes:
        program: how far the program has waited for each stream.
        current: the stream that work goes to.
    """

    def __init__(self) -> None:
        self.at: Clock = defaultdict(int)
        self.program: Clock = {}
        self._streams = 0
        self.main = self.current = self.new_stream()
        self._written: dict[int, tuple[int, int]] = {}
        self._read: dict[int, Clock] = {}
        self.arriving: dict[int, tuple[int, int]] = {}
        self.leaving: dict[int, tuple[int, int]] = {}

    def new_stream(self, *_: Any, **__: Any) -> Stream:
        """One more."""
        self._streams += 1
        return Stream(self, self._streams)

    @contextlib.contextmanager
    def running(self, stream: Stream | None) -> Iterator[None]:
        """Inside, all work goes to the stream."""
        before, self.current = self.current, stream or self.current
        try:
            yield
        finally:
            self.current = before

    def work(self, what: Any, reads: Iterable[int], writes: Iterable[int]) -> None:
        """One piece of work of the current stream.

        Raises:
            Race: another stream has to do with the same memory, and nothing puts this behind it.
        """
        if self._streams == 1:
            return
        here = self.current.number
        self.at[here] += 1
        mark = self.at[here]
        for storage in reads:
            if storage in self._written:
                self._check(what, "reads", "writes", *self._written[storage])
            self._read.setdefault(storage, {})[here] = mark
        for storage in writes:
            if storage in self._written:
                self._check(what, "writes", "writes", *self._written[storage])
            for number, at in self._read.pop(storage, {}).items():
                self._check(what, "writes", "reads", number, at)
            self._written[storage] = (here, mark)

    def _check(self, what: Any, does: str, did: str, number: int, at: int) -> None:
        here = self.current
        if number != here.number and max(here.knows.get(number, 0), self.program.get(number, 0)) < at:
            raise Race(f"{what} {does} what stream {number} {did}, and nothing makes it wait")

    def copies(self, key: int, to_program: bool) -> None:
        """The current stream copies to or from a storage of the computer's memory, and the program does not wait."""
        self.at[self.current.number] += 1
        where = self.arriving if to_program else self.leaving
        where[key] = (self.current.number, self.at[self.current.number])

    def touched_by_program(self, what: Any, reads: Iterable[int], writes: Iterable[int]) -> None:
        """The program itself reads and writes the computer's memory.

        Raises:
            Race: a copy is not done with it.
        """
        for key in reads:
            if self._still(self.arriving, key):
                raise Race(f"{what} reads what a copy from the card may not have written yet")
        for key in writes:
            if self._still(self.leaving, key):
                raise Race(f"{what} writes what a copy to the card may not have read yet")

    def _still(self, copies: dict[int, tuple[int, int]], key: int) -> bool:
        if key not in copies:
            return False
        number, at = copies[key]
        if self.program.get(number, 0) >= at:
            del copies[key]
            return False
        return True

    def wait_for(self, stream: Stream) -> None:
        """The program waits for a stream."""
        follow(self.program, stream.now)

    def forget(self, storage: int) -> None:
        """The storage is gone."""
        self._written.pop(storage, None)
        self._read.pop(storage, None)
