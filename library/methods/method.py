"""What a method is: another sum of terms over the same model, data, caches, step and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from library.config.settings import Settings
from library.objectives import Objective


@dataclass(frozen=True)
class Method:
    """One method.

    Args:
        student: what the student minimises, from the settings and whether there are regularisation pictures.
        extractor: what stage 1 minimises; None: the method has no extractor.
        penalties: weights of what is added for the weights themselves: "l2_anchor", "ewc".
        student_weights: what the student learns: a LoRA, whole weights, or the words of the concept.
    """

    student: Callable[[Settings, bool], Objective]
    extractor: Callable[[Settings], Objective] | None = None
    penalties: Callable[[Settings], Mapping[str, float]] = lambda settings: {}
    student_weights: Literal["lora", "full", "words"] = "lora"
