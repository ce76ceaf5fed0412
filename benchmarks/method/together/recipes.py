"""How several concepts are learned, and the ways in which they come into one model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.method.arms import ARMS, Arm
from benchmarks.method.concepts import CONCEPTS, BenchConcept

TRIGGERS = {"mask": "sks", "stripes": "ohwx", "bib": "ukj", "glass": "zwx"}
"""The words that stand for the concepts. The encoders must see each: `purecc_train.py --doctor` measures that."""
SUBJECTS = ("mask", "stripes", "bib")
"""In the order in which a sequence learns them."""
STYLE = "glass"
WITH_STYLE = ("mask", STYLE)
"""A subject and a style."""
EXTRACTOR_STEPS = 150
"""Of stage 1 for each concept, where the arm names no others."""

ALONE, ADDED, AGGREGATED = "alone", "added", "aggregated"
"""Each concept by its own LoRA; all LoRAs at strength 1; weighed anew for each prompt."""
JOINTLY: Mapping[str, dict[str, Any]] = {
    "jointly": {},
    "jointly, rank 48": {"network_dim": 48, "network_alpha": 48.0},
}
"""Learned in one run; with as large a LoRA as three merged ones of `lean` make."""
FUSED: Mapping[str, dict[str, Any]] = {
    "fused": {},
    "fused, mu 1": {"mu": 1.0},
    "fused, mu 0.01": {"mu": 0.01},
    "fused, mu 0": {"mu": 0.0},
    "fused by LBFGS": {"mu": 0.0, "kind": "lbfgs"},
}
"""As `purecc_fuse.py` does it; with other mu, of which 0 is the published one; and solved as published, too."""
COLOURS, MIXED = "colours of others", "colours mixed"
"""Measures: how likely a concept has the others' colours, and one thing those of both where two are asked for."""
PRETRAINED, DRAWN = "pretrained", "drawn"
"""What bounds the tables: the pretrained model shown the triggers, and drawn pictures of what was asked for."""


@dataclass(frozen=True)
class Recipe:
    """How the concepts are learned, and how they come into one model.

    Attributes:
        arm: of the bench, at whose settings each is learned.
        ways: into one model; each is a trial.
        sequence: whether each concept's run is told the LoRAs of those before it.
        names: of the concepts.
    """

    arm: Arm
    ways: tuple[str, ...]
    sequence: bool = False
    names: tuple[str, ...] = SUBJECTS

    def steps(self, concepts: int) -> int:
        """Of stage 2 of a run with so many concepts: the arm's for each."""
        return self.arm.checkpoints[-1] * concepts

    def extractor_steps(self, concepts: int) -> int:
        """The same of stage 1."""
        return int(self.arm.settings.get("extractor_train_steps", EXTRACTOR_STEPS)) * concepts


RECIPES: dict[str, Recipe] = {
    "pure": Recipe(ARMS["pure"], (ADDED, "fused", "jointly")),
    "lean": Recipe(ARMS["lean"], (ADDED, "fused", "fused, mu 0.01", "fused, mu 1", *JOINTLY)),
    "Mix-of-Show": Recipe(ARMS["Mix-of-Show"], (ADDED, *FUSED, "jointly")),
    "Mix-of-Show, slow": Recipe(
        Arm({"method": "mix_of_show", "learning_rate": ARMS["lean"].settings["learning_rate"]}, "", extractor=False),
        (ADDED, "fused"),
    ),
    "CIFC": Recipe(Arm({"method": "cifc"}, "", extractor=False), (ADDED, AGGREGATED), sequence=True),
    "plain LoRA": Recipe(ARMS["plain LoRA"], (ADDED, "fused", "jointly")),
    "pure, with a style": Recipe(ARMS["pure"], (ADDED, "fused", "jointly"), names=WITH_STYLE),
    "lean, with a style": Recipe(ARMS["lean"], (ADDED, "fused", "jointly"), names=WITH_STYLE),
    "plain LoRA, with a style": Recipe(ARMS["plain LoRA"], (ADDED, "fused", "jointly"), names=WITH_STYLE),
}
"""The slow one has the rate of `lean`. `pure`, `lean` and the plain LoRA go by their words alone; Mix-of-Show and CIFC
have vectors, which are a part of them."""


def concepts_of(names: Iterable[str] = tuple(TRIGGERS)) -> dict[str, BenchConcept]:
    """The concepts of a model, each with its own trigger."""
    return {name: replace(CONCEPTS[name](), trigger=TRIGGERS[name]) for name in names}


def trial_file(work: Path, recipe: str, way: str, seed: int) -> Path:
    """Where a trial's result is kept."""
    return work / "trials" / f"{plain(recipe)}-{plain(way)}-{seed}.json"


def plain(name: str) -> str:
    """A name as it can stand in a file's."""
    return "".join(c if c.isalnum() else "-" for c in name)


def looks_of(name: str) -> str:
    """The measure that says how likely a concept's looks are in a picture."""
    return f"looks of {name}"
