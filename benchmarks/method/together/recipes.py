"""How several concepts are learned, and the ways in which they come into one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.method.arms import ARMS, Arm
from benchmarks.method.concepts import CONCEPTS, BenchConcept

TRIGGERS = {"mask": "sks", "stripes": "ohwx", "bib": "ukj"}
"""The subjects, in the order in which a sequence learns them."""
STEPS, EXTRACTOR_STEPS = 160, 150
"""Of the student and of stage 1, for each concept: a run of three has three times as many."""

ALONE, ADDED, AGGREGATED = "alone", "added", "aggregated"
"""Each concept by its own LoRA; all LoRAs at strength 1; weighed anew for each prompt."""
JOINTLY: Mapping[str, dict[str, Any]] = {
    "jointly": {},
    "jointly, rank 12": {"network_dim": 12, "network_alpha": 12.0},
}
"""Learned in one run; with as large a LoRA as merged ones make."""
FUSED: Mapping[str, dict[str, Any]] = {
    "fused": {},
    "fused, mu 10": {"mu": 10.0},
    "fused, mu 0.1": {"mu": 0.1},
    "fused, mu 0": {"mu": 0.0},
    "fused by LBFGS": {"mu": 0.0, "kind": "lbfgs"},
}
"""As `purecc_fuse.py` does it; with other mu, of which 0 is the published one; and solved as published, too."""
PRETRAINED, DRAWN = "pretrained", "drawn"
"""What bounds the tables: the pretrained model shown the triggers, and drawn pictures of what was asked for."""


@dataclass(frozen=True)
class Recipe:
    """How the concepts are learned, and how they come into one model.

    Attributes:
        arm: of the bench, at whose settings each is learned.
        ways: into one model; each is a trial.
        sequence: whether each concept's run is told the LoRAs of those before it.
    """

    arm: Arm
    ways: tuple[str, ...]
    sequence: bool = False


RECIPES: dict[str, Recipe] = {
    "pure": Recipe(ARMS["pure"], (ADDED, "fused", "jointly")),
    "lean": Recipe(ARMS["lean"], (ADDED, "fused", "fused, mu 0.1", "fused, mu 10", *JOINTLY)),
    "Mix-of-Show": Recipe(ARMS["Mix-of-Show"], (ADDED, *FUSED, "jointly")),
    "Mix-of-Show, slow": Recipe(
        Arm({"method": "mix_of_show", "learning_rate": ARMS["lean"].settings["learning_rate"]}, "", extractor=False),
        (ADDED, "fused"),
    ),
    "CIFC": Recipe(Arm({"method": "cifc"}, "", extractor=False), (ADDED, AGGREGATED), sequence=True),
    "plain LoRA": Recipe(ARMS["plain LoRA"], (ADDED, "fused", "jointly")),
}
"""Those that take longest come first; the slow one has the rate of `lean`."""


def subjects() -> dict[str, BenchConcept]:
    """The concepts of a model, each with its own trigger."""
    return {name: replace(CONCEPTS[name](), trigger=trigger) for name, trigger in TRIGGERS.items()}


def trial_file(work: Path, recipe: str, way: str, seed: int) -> Path:
    """Where a trial's result is kept."""
    return work / "trials" / f"{plain(recipe)}-{plain(way)}-{seed}.json"


def plain(name: str) -> str:
    """A name as it can stand in a file's."""
    return "".join(c if c.isalnum() else "-" for c in name)


def looks_of(name: str) -> str:
    """The measure that says how likely another subject's looks are in a picture."""
    return f"looks of {name}"
