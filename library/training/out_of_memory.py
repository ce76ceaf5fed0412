"""What a run does when the GPU runs out of memory during a step.

A step with unfinished gradients has changed nothing yet, and its number determines everything random in it. So the run
can repeat it with less memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from library.config.settings import Settings
from library.errors import TrainingError
from library.models.family import FlowModel
from library.models.memory.residence import ALWAYS_RESIDENT
from library.preflight.fit import StepDown, steps_down


def live_steps(settings: Settings, model: FlowModel) -> Iterator[StepDown]:
    """What can still be changed while the model is loaded, in the order to try."""
    base = model.base
    blocks = len(base.blocks)
    if len(base.recomputed) < blocks:
        yield StepDown(model={"gradient_checkpointing": True, "checkpointed_blocks": "all"})
    if settings.optimizer.batch_passes == "together":
        yield StepDown(optimizer={"batch_passes": "one_by_one"})
    if base.swap is None and blocks > ALWAYS_RESIDENT:
        yield StepDown(model={"blocks_to_swap": blocks - ALWAYS_RESIDENT})


def step_down(settings: Settings, model: FlowModel, where: str) -> tuple[Settings, StepDown]:
    """Takes the next measure to save memory, if auto_fit allows it; returns the new settings and the measure.

    Args:
        where: stage and step, for the error.

    Raises:
        TrainingError: no measure is left, or the user has to decide; says what to try, in order.
    """
    left = list(live_steps(settings, model))
    if not settings.model.auto_fit or not left:
        known = [str(step) for step in steps_down(settings, len(model.base.blocks))]
        raise TrainingError(
            f"{where}: out of GPU memory.",
            "In this order, try "
            + "; ".join([*known, "a lower resolution or a smaller train_batch_size"])
            + ". With --auto_fit, the run does this automatically.",
        )
    step = left[0]
    settings = step.taken(settings)
    if "blocks_to_swap" in step.model:
        model.base.swap_blocks(step.model["blocks_to_swap"])
    if step.model:
        model.base.recompute(None)
        model.residence = replace(model.residence, blocks_to_swap=model.base.swapped, recomputed=None)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return settings, step
