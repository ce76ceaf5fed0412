"""What a method is: another sum of terms over the same model, data, caches, step and files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from library.config.settings import Settings
from library.methods.penalties import Penalty
from library.objectives import Objective

Penalties = tuple[tuple[str, float, Callable[..., Penalty]], ...]


@dataclass(frozen=True)
class Method:
    """One method.

    Args:
        student: what the student minimises, from the settings and whether there are regularisation pictures.
        extractor: what stage 1 minimises; None: the method has no extractor.
        penalties: (name, weight, kind) of what is added for the weights themselves, whatever they predict.
    """

    student: Callable[[Settings, bool], Objective]
    extractor: Callable[[Settings], Objective] | None = None
    penalties: Callable[[Settings], Penalties] = lambda settings: ()
