"""The student's moving average (EMA), kept next to the learning weights and swapped in to save, draw and measure it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from library.parts.learnable import Learnable, parameters_of

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel


class Average:
    """The moving average of everything that learns; without a decay, the weights themselves.

    Args:
        learnables: of the student's stage.
        decay: share of the past in each step; at most n / (9 + n) in step n, and none in the first, so that short runs
            forget their start. None: there is no average.
    """

    def __init__(self, learnables: Iterable[Learnable], decay: float | None) -> None:
        self.parameters = parameters_of(learnables)
        self._kept = None if decay is None or not self.parameters else _kept_of(self.parameters, decay)

    def step(self) -> None:
        """Updates the average after a step that changed the weights."""
        if self._kept:
            self._kept.step(self.parameters)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the weights are the average, to be saved, drawn or measured."""
        if not self._kept:
            yield
            return
        self._kept.store(self.parameters)
        self._kept.copy_to(self.parameters)
        try:
            yield
        finally:
            self._kept.restore(self.parameters)

    def take(self) -> None:
        """Replaces the weights with the average."""
        if self._kept:
            self._kept.copy_to(self.parameters)

    def state(self) -> dict[str, Any] | None:
        """What it needs to continue; None if there is no average."""
        return self._kept.state_dict() if self._kept else None

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Continues from there; without a state, the average starts from the current weights."""
        if self._kept and state:
            self._kept.load_state_dict(state)
            self._kept.to(self.parameters[0].device)


def _kept_of(parameters: list[nn.Parameter], decay: float) -> EMAModel:
    from diffusers.training_utils import EMAModel  # imports most of diffusers: only if there is an average

    return EMAModel(parameters, decay=decay)
