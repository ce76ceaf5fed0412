"""Everything random is a function of the seed and its purpose, so a resumed run needs no saved generator."""

from __future__ import annotations

import hashlib

import torch


def seed_for(seed: int, *what: str | int) -> int:
    """A separate seed for each purpose, such as a stage's step."""
    digest = hashlib.sha256(" ".join(map(str, (seed, *what))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(seed: int, *what: str | int) -> torch.Generator:
    """A generator on the CPU whose numbers follow from the seed and their purpose."""
    return torch.Generator().manual_seed(seed_for(seed, *what))
