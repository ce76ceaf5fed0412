"""The questions, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.card import full_size, same_numbers
from benchmarks.card.scale import Scale


@dataclass(frozen=True)
class Question:
    """One of them.

    Args:
        about: a sentence above its table.
        ask: gives the rows of the table.
        columns: of the table, each with its heading; what no row has is left out.
    """

    about: str
    ask: Callable[[Scale], list[dict[str, Any]]]
    columns: dict[str, str]


CLOSE = {"error": "error", "allowed": "allowed", "verdict": "verdict"}
STEP = {"seconds": "seconds", "peak_gib": "peak, GiB"}
QUESTIONS = {
    "velocities": Question(
        "Small model: the pretrained model's velocity against the CPU's in float32",
        same_numbers.velocities,
        {"precision": "precision", **CLOSE},
    ),
    "training": Question(
        "Small model: the losses of a short training in float32 against the CPU's",
        same_numbers.training,
        {"stage": "stage", "step": "step", "loss": "loss", "cpu": "on the CPU", **CLOSE},
    ),
    "resume": Question(
        "Small model: a run that was stopped and resumed against one that was not",
        same_numbers.resume,
        {"what": "what", **CLOSE},
    ),
    "optimizers": Question(
        "Small model: steps with optimizers in 8 bits",
        same_numbers.optimizers,
        {"optimizer": "optimizer", "loss": "loss", "ms": "ms", "verdict": "verdict"},
    ),
    "attention": Question(
        "Attention, there and back, by kernel",
        full_size.attention,
        {"pixels": "pixels", "precision": "precision", "kernel": "kernel", "ms": "ms", "verdict": "verdict"},
    ),
    "speed": Question(
        "Full size, random weights: one step of stage 2, all blocks recomputed",
        full_size.speed,
        {"step": "step", **STEP, "ratio": "against plain"},
    ),
    "memory": Question(
        "Full size, random weights: the presets, a few steps of each phase, against their forecast",
        full_size.memory,
        {
            "preset": "preset",
            "phase": "phase",
            "peak_gib": "tensors, GiB",
            "predicted_gib": "predicted, GiB",
            "reserved_gib": "reserved by PyTorch, GiB",
            "cuda_gib": "CUDA's own, GiB",
            "room_gib": "a card of that size has, GiB",
        },
    ),
    "swapping": Question(
        "Full size, random weights: a step of lean with swapped blocks",
        full_size.swapping,
        {
            "swapped": "blocks swapped",
            **STEP,
            "moved_gb": "moved, GB",
            "copying_s": "copying alone, s",
            "hidden": "share of it that is hidden",
        },
    ),
    "precision": Question(
        "Full size, random weights: a step of lean in 16 bits of both kinds, and compiled",
        full_size.precision,
        {"precision": "precision", "torch_compile": "torch_compile", **STEP, "verdict": "notices"},
    ),
}
"""By name."""
