"""Predictions that a test makes up."""

from collections.abc import Mapping

import torch
from torch import Tensor

from library.predictions import Predicted, Prediction, Truth, Velocities


def velocities(made_up: Mapping[Prediction, Tensor], reference: Truth, replay: Truth | None = None) -> Velocities:
    """A step with these velocities, in which no states are compared."""
    nothing = {one: Predicted(velocity, torch.zeros(len(velocity))) for one, velocity in made_up.items()}
    return Velocities(nothing, reference, replay)
