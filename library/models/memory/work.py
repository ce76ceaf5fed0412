"""The counted operations of a pass, and how long they take on a device."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from library.config.gpus import Speed


@dataclass
class Work:
    """Operations, counted by (flops, bytes read and written, whether it is attention).

    Args:
        batches: number of batches that they come from; every total is the mean over these.
    """

    operations: Counter[tuple[int, int, bool]] = field(default_factory=Counter)
    batches: int = 1

    def add(self, flops: int, traffic: int, attention: bool) -> None:
        """Adds one operation."""
        self.operations[flops, traffic, attention] += 1

    @property
    def flops(self) -> float:
        """Floating-point operations per batch."""
        return sum(count * flops for (flops, _, _), count in self.operations.items()) / self.batches

    @property
    def traffic(self) -> float:
        """Bytes read and written per batch."""
        return sum(count * traffic for (_, traffic, _), count in self.operations.items()) / self.batches

    @property
    def count(self) -> float:
        """Number of operations per batch."""
        return self.operations.total() / self.batches

    def seconds(self, speed: Speed) -> float:
        """Seconds per batch, with one operation after the other."""
        return sum(count * speed.seconds(*one) for one, count in self.operations.items()) / self.batches
