"""Velocity drift: how far a LoRA moves the model's predictions at equal noisy pictures. No scorer is needed.

The noisy pictures are the pretrained model's own, of each prompt's base text. On them, with v_0 the pretrained model
and v_s the same with the LoRA,

    drift    =  ||v_s(base) - v_0(base)|| / ||v_0(base)||
    scale    =  ||D|| / ||v_0(base)||,  D = v_s(with [V]) - v_0(base)       what the LoRA does when it is asked to
    leak     =  <v_s(base) - v_0(base), D> / <D, D>             0: nothing of the concept without [V]; 1: all of it
    outside  =  ||D|| / ||v_0(base)|| over the places outside the subject

Where the subject is, the pretrained model says itself: where its velocity depends on the class word (`subject_at`). And
on reference pictures, with e = (x_1 - x_0) - v_0(base) what the pretrained model gets wrong of them,

    gain     =  1 - ||e - D||^2 / ||e||^2                       share of the flow-matching loss that is gone
    toward   =  sqrt(<D, e>) / ||v_0(base)||                    length of the part of D that is right; it leaves out the
                                                                noise of pictures that no model can foretell
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from library.chance import generator_for
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.flow import LEVELS_OVER_ALL, interpolate, mse, velocity_target
from library.models.interface import Progress, PromptBatch
from library.parts.parts import Attached
from library.prepare.regions import split
from library.prepare.replay import pictures_at_once

SIGMAS = (0.3, 0.6, 0.9)
"""Noise levels at which velocities are compared."""
SUBJECT_SIGMA = 0.6
"""Noise level at which the subject is looked for: above .8 the picture says too little."""
SUBJECT_GRID = 16
"""Places along the longer side of the map of the subject; finer ones would be noise."""

Kind = Literal["concept", "bystander", "class", "unrelated"]


@dataclass(frozen=True)
class Probe:
    """A prompt on which a LoRA is compared with the pretrained model.

    Args:
        kind: "concept": with [V]; "bystander": with [V] and another of its class; "class": the class without [V].
        base: the prompt without the concept, as the pretrained model is given it.
        complete: with the concept in it; None where it has no place.
        classless: the base text without the class word, which tells where the subject is; None where there is none.
        seed: of its picture's noise.
    """

    kind: Kind
    base: str
    complete: str | None
    classless: str | None
    seed: int

    @property
    def texts(self) -> list[str]:
        """All texts that have to be prepared."""
        return [text for text in (self.base, self.complete, self.classless) if text is not None]

    @property
    def shown(self) -> str:
        """What the LoRA draws: the text that says what the prompt is about."""
        if self.complete is not None and self.kind in ("concept", "bystander"):
            return self.complete
        return self.base


@dataclass(frozen=True)
class Shift:
    """How the velocity moved on one prompt.

    Args:
        drift: at each of `SIGMAS`, of the prompt without the concept.
        scale: the same for the prompt with [V] in it; None where it has no place.
        leak: None where there is no place for [V].
        outside: None where no subject is known.
    """

    drift: tuple[float, ...]
    scale: tuple[float, ...] | None = None
    leak: float | None = None
    outside: float | None = None

    @property
    def mean_drift(self) -> float:
        """Over noise levels."""
        return sum(self.drift) / len(self.drift)


@dataclass(frozen=True)
class Learned:
    """What a LoRA knows about its reference pictures. It says nothing about pictures that it never saw.

    Args:
        gain: share by which the flow-matching loss on them falls.
        better: share of pictures and noise levels at which it falls.
        toward: how far the velocity moved in the right direction, in the unit of `drift`.
    """

    gain: float
    better: float
    toward: float


def shifts(
    parts: Attached,
    branch: Branch,
    probes: Sequence[Probe],
    latents: Sequence[Tensor],
    progress: Progress = iter,
) -> list[Shift]:
    """How the velocity moved on each prompt.

    Args:
        probes: their texts prepared.
        latents: of the pretrained model's picture of each base text, (C, h, w) each, all of one size.
    """
    at_once = pictures_at_once(latents[0].shape) if len(latents) else 1
    found: list[Shift] = []
    for begin in progress(range(0, len(probes), at_once)):
        some = probes[begin : begin + at_once]
        found += _shifts(parts, branch, some, torch.stack(list(latents[begin : begin + at_once])))
    return found


@torch.no_grad()
def _shifts(parts: Attached, branch: Branch, probes: Sequence[Probe], latents: Tensor) -> list[Shift]:
    base, seeds = [probe.base for probe in probes], [probe.seed for probe in probes]
    complete = [probe.complete or probe.base for probe in probes]
    subject = subject_at(parts, probes, latents)
    drifts, scales, leaked = [], [], []
    lengths, outside_of, outside_before = torch.zeros(len(probes)), torch.zeros(len(probes)), torch.zeros(len(probes))
    for sigma in SIGMAS:
        x_t, levels = _noisy(latents, seeds, sigma)
        before = velocity_of(parts, PRETRAINED_BRANCH, x_t, levels, base)
        moved = velocity_of(parts, branch, x_t, levels, base) - before
        asked = velocity_of(parts, branch, x_t, levels, complete) - before
        drifts.append(_length(moved) / _length(before))
        scales.append(_length(asked) / _length(before))
        leaked.append((moved * asked).flatten(1).sum(1))
        lengths += _length(asked).square()
        outside_of += (asked.square().sum(1) * ~subject).flatten(1).sum(1)
        outside_before += (before.square().sum(1) * ~subject).flatten(1).sum(1)
    leak = torch.stack(leaked).sum(0) / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
    outside = (outside_of / outside_before).sqrt()
    result = []
    for row, probe in enumerate(probes):
        result.append(
            Shift(
                drift=tuple(float(one[row]) for one in drifts),
                scale=tuple(float(one[row]) for one in scales) if probe.complete else None,
                leak=float(leak[row]) if probe.complete else None,
                outside=float(outside[row]) if probe.classless is not None else None,
            )
        )
    return result


@torch.no_grad()
def subject_at(parts: Attached, probes: Sequence[Probe], latents: Tensor) -> Tensor:
    """Where the subject is in the pretrained model's pictures, (N, h, w) bool; nowhere without a class word.

    It is where v_0(base) differs from v_0(base without the class word), parted in two by Otsu's threshold. (The
    difference of two noise predictions as a mask: DiffEdit, arXiv 2210.11427.)
    """
    x_t, levels = _noisy(latents, [probe.seed for probe in probes], SUBJECT_SIGMA)
    base = velocity_of(parts, PRETRAINED_BRANCH, x_t, levels, [probe.base for probe in probes])
    without = [probe.base if probe.classless is None else probe.classless for probe in probes]
    matters = (base - velocity_of(parts, PRETRAINED_BRANCH, x_t, levels, without)).square().sum(1, keepdim=True)
    height, width = matters.shape[-2:]
    part = min(1.0, SUBJECT_GRID / max(height, width))
    coarse = F.adaptive_avg_pool2d(matters, (max(1, round(height * part)), max(1, round(width * part))))
    chosen = torch.stack([split(one) for one in coarse])
    return F.interpolate(chosen, (height, width)).squeeze(1) > 0


@torch.no_grad()
def rounding_floor(parts: Attached, texts: Sequence[str], latents: Tensor) -> float:
    """Drift of the pretrained model from itself when its input is off by one rounding in its own precision."""
    worst, step = 0.0, torch.finfo(parts.model.dtype).eps / 2
    for sigma in SIGMAS:
        x_t, levels = _noisy(latents, range(len(latents)), sigma)
        signs = torch.randint(0, 2, x_t.shape, generator=generator_for(0, "rounding", str(sigma))) * 2.0 - 1
        before = velocity_of(parts, PRETRAINED_BRANCH, x_t, levels, texts)
        rounded = velocity_of(parts, PRETRAINED_BRANCH, x_t * (1 + step * signs), levels, texts)
        worst = max(worst, float((_length(rounded - before) / _length(before)).mean()))
    return worst


@torch.no_grad()
def reference_gain(
    parts: Attached, branch: Branch, images: Sequence[Tensor], texts: Sequence[str], base_texts: Sequence[str]
) -> Learned:
    """How much better reference pictures are predicted, always at the same noise.

    Args:
        images: latents, (C, h, w) each; sizes may differ.
        texts, base_texts: prepared, one each: what the branch and what the pretrained model is given.
    """
    before_all, now_all, toward = [], [], []
    for number, (image, text, base) in enumerate(zip(images, texts, base_texts, strict=True)):
        rows = image[None].expand(len(LEVELS_OVER_ALL), -1, -1, -1)
        noise = torch.randn(rows.shape, generator=generator_for(0, "reference", number))
        sigma = torch.tensor(LEVELS_OVER_ALL)
        x_t, goal = interpolate(rows, noise, sigma), velocity_target(rows, noise)
        before = velocity_of(parts, PRETRAINED_BRANCH, x_t, sigma, [base] * len(sigma))
        now = velocity_of(parts, branch, x_t, sigma, [text] * len(sigma))
        before_all.append(mse(before, goal))
        now_all.append(mse(now, goal))
        right = ((now - before) * (goal - before)).flatten(1).sum(1)
        toward.append(right.sign() * right.abs().sqrt() / _length(before))
    loss_before, loss = torch.stack(before_all), torch.stack(now_all)
    return Learned(
        gain=float(1 - loss.sum() / loss_before.sum()),
        better=float((loss < loss_before).float().mean()),
        toward=float(torch.stack(toward).mean()),
    )


def _noisy(latents: Tensor, seeds: Iterable[int], sigma: float) -> tuple[Tensor, Tensor]:
    """Noisy pictures of one level, the same for the same seeds, and that level for each."""
    levels = torch.full((len(latents),), sigma)
    shape = latents.shape[1:]
    noise = [torch.randn(shape, generator=generator_for(seed, "drift", str(sigma))) for seed in seeds]
    return interpolate(latents, torch.stack(noise), levels), levels


def velocity_of(parts: Attached, branch: Branch, x_t: Tensor, sigma: Tensor, texts: Sequence[str]) -> Tensor:
    """A pass of one branch over a text for each row, (B, C, H, W) float32 on the CPU."""
    prompts = PromptBatch.of([parts.texts[text] for text in texts], [None] * len(texts))
    return parts.velocity(branch, x_t, sigma, [prompts]).cpu()


def _length(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)
