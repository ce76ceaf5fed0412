"""Operations of a pass, counted, and how long they take on a device."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from library.config.gpus import Speed


@dataclass
class Work:
    """Operations, counted by what they are: (flops, bytes read and written, whether it is attention).

    Args:
        batches: of which they are; what they come to is the mean of these.
    """

    operations: Counter[tuple[int, int, bool]] = field(default_factory=Counter)
    batches: int = 1

    def add(self, flops: int, traffic: int, attention: bool) -> None:
        """One operation more."""
        self.operations[flops, traffic, attention] += 1

    @property
    def flops(self) -> float:
        """Floating-point operations of all of them."""
        return sum(count * flops for (flops, _, _), count in self.operations.items()) / self.batches

    @property
    def traffic(self) -> float:
        """Bytes read and written by all of them."""
        return sum(count * traffic for (_, traffic, _), count in self.operations.items()) / self.batches

    @property
    def count(self) -> float:
        """How many they are."""
        return self.operations.total() / self.batches

    def seconds(self, speed: Speed) -> float:
        """How long they take one after the other."""
        return sum(count * speed.seconds(*one) for one, count in self.operations.items()) / self.batches
