"""The GPUs that the setting `card` knows, and how long an operation takes on one: the longest of its products,
traffic and start.

The speeds are the makers' numbers, and the share that a run gets is assumed: nothing here was measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

GEMM, ATTENTION = 0.80, 0.65
"""Shares of a GPU's speed that large matrix products and fused attention reach. Assumed."""
TRAFFIC = 0.85
"""Share of its memory bandwidth that other operations reach. Assumed."""
START = 6e-6
"""Seconds that PyTorch takes to start an operation. Assumed."""
BUS = 12e9
"""Bytes per second from the computer's memory to a GPU: PCIe 4.0 with 8 lanes, or 3.0 with 16. Assumed."""
DISK = 1e9
"""Bytes per second when reading a file: between a SATA and an NVMe disk. Assumed."""


@dataclass(frozen=True)
class Speed:
    """A device.

    Args:
        name: in messages.
        flops: per second, of products of 16-bit matrices with sums in 32 bits.
        bandwidth: bytes per second between its memory and its cores.
        memory: GB.
        start: seconds that PyTorch takes to start an operation.
        known: all of it was measured, so a run gets exactly this.
    """

    name: str
    flops: float
    bandwidth: float
    memory: int = 0
    start: float = START
    known: bool = False

    def seconds(self, flops: int, traffic: int, attention: bool) -> float:
        """The time of one operation."""
        products, copies = (1.0, 1.0) if self.known else (ATTENTION if attention else GEMM, TRAFFIC)
        return max(flops / (self.flops * products), traffic / (self.bandwidth * copies), self.start)


CARDS = {
    card.name: card
    for card in (
        Speed("RTX 3050 6GB", 13.5e12, 168e9, 6),
        Speed("RTX 4060", 30e12, 272e9, 8),
        Speed("RTX 3070", 40.6e12, 448e9, 8),
        Speed("RTX 3060", 25.5e12, 360e9, 12),
        Speed("RTX 4070", 58.3e12, 504e9, 12),
        Speed("RTX 4060 Ti 16GB", 44e12, 288e9, 16),
        Speed("RTX 4080", 97e12, 717e9, 16),
        Speed("RTX 3090", 71e12, 936e9, 24),
        Speed("RTX 4090", 165e12, 1008e9, 24),
    )
}
"""GPUs by name; the slowest of each size comes first."""


def card_of_size(gigabytes: float) -> Speed:
    """The slowest known GPU with that much memory, or of the next smaller size."""
    smaller = [card for card in CARDS.values() if card.memory <= gigabytes]
    return next(
        (card for card in CARDS.values() if smaller and card.memory == smaller[-1].memory), CARDS["RTX 3050 6GB"]
    )
