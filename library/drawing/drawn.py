"""Draws pictures of prompts; every caller uses this."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from library.drawing.sampling import Schedule, SkipLayerGuidance, sample
from library.dual_branch_scheduler import Branch
from library.models.interface import PromptBatch
from library.parts.parts import Attached
from library.prompts import NULL_PROMPT


def draw_latents(
    parts: Attached,
    branch: Branch,
    texts: Sequence[str],
    noise: Tensor,
    steps: int,
    guidance_scale: float,
    *,
    negative: str = NULL_PROMPT,
    shift: float | None = None,
    schedule: Schedule = "normal",
    skipping: SkipLayerGuidance | None = None,
) -> Tensor:
    """Latents (B, C, h, w), float32, of pictures of these texts in one batch.

    Args:
        texts: prepared, one per picture.
        noise: the start of each picture, (B, C, h, w).
        guidance_scale: 1 does without the negative prompt.
        negative: prepared; what guidance pushes away from.
        shift: of the noise levels; None: the model's own.
        schedule, skipping: see `sample`.
    """
    none = [None] * len(texts)
    return sample(
        lambda *given: parts.velocity(branch, *given),
        parts.model.sampling_scheduler(shift),
        noise,
        PromptBatch.of([parts.texts[text] for text in texts], none),
        PromptBatch.of([parts.texts[negative]] * len(texts), none),
        steps,
        guidance_scale,
        schedule,
        skipping,
    )


def draw_as_set(
    parts: Attached,
    branch: Branch,
    texts: Sequence[str],
    noise: Tensor,
    *,
    negative: str = NULL_PROMPT,
    shift: float | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
) -> Tensor:
    """The same with the settings of [samples], as sheets are drawn."""
    samples = parts.settings.samples
    return draw_latents(
        parts,
        branch,
        texts,
        noise,
        steps or samples.sample_steps,
        guidance_scale or samples.guidance_scale,
        negative=negative,
        shift=samples.sample_shift if shift is None else shift,
        schedule=samples.sample_scheduler,
        skipping=SkipLayerGuidance.of(samples),
    )
