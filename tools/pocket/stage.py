"""One stage of training. It can be stopped at any time, and resumes exactly from its last save."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from library.chance import generator_for
from library.errors import TrainingError
from library.files.atomic import write_tensors

CONSTANT = 0.55
"""Share of a stage at the full learning rate; then it falls linearly."""
WARM_UP = 100
LAST_RATE = 0.02
CLIP = 1.0

Loss = Callable[[int, torch.Generator], Tensor]
"""The loss of a step, given its number and its generator."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How long a stage trains, and how."""

    name: str
    steps: int
    """Optimiser steps. A stage that ends by its steps is a function of its seed."""
    batch: int
    rate: float
    minutes: float | None = None
    """Ends the stage after this time, if its steps are not done by then; None: no limit."""
    average: float = 0.998
    """Decay of the running average of the weights, which is the stage's result."""
    save_every: float = 60.0
    """Seconds between saves."""


@dataclass(frozen=True)
class Workplace:
    """Where and how stages train.

    Attributes:
        folder: each stage keeps its state there, in `<stage>.safetensors`.
        seed: of all random numbers.
        device: "cpu" or "cuda".
        say: reports progress to the user.
    """

    folder: Path
    seed: int
    device: str
    say: Callable[[str], None]


@dataclass
class Progress:
    """The progress of a stage."""

    step: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    """(step, seconds, mean loss since the previous point)."""


def autocast(device: str) -> AbstractContextManager:
    """bfloat16 where the machine is fast at it, float32 elsewhere."""
    quick = device == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device, torch.bfloat16, enabled=quick)


def rate_at(stage: Stage, progress: Progress) -> float:
    """The learning rate of the next step: warm-up, constant, falling."""
    share = progress.step / stage.steps
    if stage.minutes is not None:
        share = max(share, progress.seconds / (60 * stage.minutes))
    fall = min(1.0, (1 - share) / (1 - CONSTANT))
    return stage.rate * min(1.0, (progress.step + 1) / WARM_UP) * max(LAST_RATE, fall)


def is_done(stage: Stage, progress: Progress) -> bool:
    """Whether a stage has used up its steps or its time. With more of both it continues."""
    return progress.step >= stage.steps or (stage.minutes is not None and progress.seconds > 60 * stage.minutes)


def train(stage: Stage, place: Workplace, model: nn.Module, loss_of: Loss) -> Progress:
    """Trains the model's weights that require gradients, and leaves it with the average of its weights.

    Args:
        loss_of: given step and generator; the generator depends only on seed, stage and step.

    Raises:
        TrainingError: the loss is NaN or infinite.
    """
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    mean = {name: p.detach().clone() for name, p in weights.items()}
    optimiser = torch.optim.AdamW(weights.values(), lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.01)
    file = place.folder / f"{stage.name}.safetensors"
    progress = _load(file, weights, mean, optimiser) if file.exists() else Progress()
    saved, since, losses = progress.seconds, time.monotonic() - progress.seconds, []
    while not is_done(stage, progress):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(stage, progress)
        loss = loss_of(progress.step, generator_for(place.seed, stage.name, progress.step))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights.values(), CLIP)
        optimiser.step()
        _follow(mean, weights, min(stage.average, (1 + progress.step) / (10 + progress.step)))
        losses.append(loss.detach())
        progress.step += 1
        progress.seconds = time.monotonic() - since
        if is_done(stage, progress) or progress.seconds - saved > stage.save_every:
            _note(stage, progress, losses, place.say)
            saved, losses = progress.seconds, []
            _save(file, weights, mean, optimiser, progress)
    with torch.no_grad():
        for name, p in weights.items():
            p.copy_(mean[name])
    return progress


def progress_of(folder: Path, name: str) -> Progress:
    """The progress in a stage's saved state; the start if there is none."""
    if not (folder / f"{name}.safetensors").exists():
        return Progress()
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        return Progress(**json.loads(file.metadata()["progress"]))


@torch.no_grad()
def _follow(mean: dict[str, Tensor], weights: dict[str, Tensor], decay: float) -> None:
    torch._foreach_lerp_(list(mean.values()), [p.detach() for p in weights.values()], 1 - decay)


def _note(stage: Stage, progress: Progress, losses: list[Tensor], say: Callable[[str], None]) -> None:
    loss = torch.stack(losses).mean().item()
    if loss != loss:
        raise TrainingError(f"{stage.name}: the loss is not a number after {progress.step} steps.", "Lower its rate.")
    progress.curve.append((progress.step, round(progress.seconds, 1), round(loss, 5)))
    speed = progress.step * stage.batch / progress.seconds
    say(f"{stage.name}: step {progress.step}, {progress.seconds / 60:.1f} min, {speed:.0f} samples/s, loss {loss:.4f}")


def _save(file: Path, weights: dict, mean: dict, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    tensors = {f"weight.{n}": p for n, p in weights.items()} | {f"mean.{n}": p for n, p in mean.items()}
    for name, p in weights.items():
        state = optimiser.state[p]
        tensors |= {f"{key}.{name}": state[key] for key in ("exp_avg", "exp_avg_sq", "step")}
    write_tensors(file, tensors, {"progress": json.dumps(asdict(progress))})


def _load(file: Path, weights: dict, mean: dict, optimiser: torch.optim.Optimizer) -> Progress:
    tensors = load_file(file)
    with torch.no_grad():
        for name, p in weights.items():
            p.copy_(tensors[f"weight.{name}"])
            mean[name].copy_(tensors[f"mean.{name}"])
            optimiser.state[p] = {
                key: tensors[f"{key}.{name}"].to(p.device if key != "step" else "cpu")
                for key in ("exp_avg", "exp_avg_sq", "step")
            }
    return progress_of(file.parent, file.stem)
