"""Fits a run to a GPU: describes what it needs, recomputes as few blocks as possible, and steps down if it doesn't fit.

The steps down are ordered by cost: first those that change no number and take little time, then those that cost time,
last those that round the frozen weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from library.config.gpus import CARDS
from library.config.settings import Settings
from library.errors import ConfigError
from library.models.memory.residence import ALWAYS_RESIDENT, Residence
from library.preflight.forecast import (
    CUDA_CONTEXT,
    DESKTOP,
    GIB,
    PRESETS,
    Forecast,
    count_step,
    forecast,
    recounted,
)
from library.preflight.plan import Plan
from library.preflight.times import describe_times, speed_for
from library.preflight.windows import POLICY, SPILLS, spills

REFINEMENTS = 2
LAST_RESORT = "a lower resolution, or a smaller train_batch_size with more gradient_accumulation_steps"


@dataclass(frozen=True)
class StepDown:
    """Settings that need less memory."""

    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{name} = {_as_toml(value)}" for name, value in {**self.model, **self.optimizer}.items())

    def taken(self, settings: Settings) -> Settings:
        """The settings after this step."""
        return replace(
            settings,
            model=replace(settings.model, **self.model),
            optimizer=replace(settings.optimizer, **self.optimizer),
        )


def _as_toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def steps_down(settings: Settings, blocks: int) -> list[StepDown]:
    """The steps that are left, in order.

    Args:
        blocks: number of blocks of the transformer.
    """
    model, found = settings.model, []
    if not model.gradient_checkpointing or isinstance(model.checkpointed_blocks, int):
        found.append(StepDown(model={"gradient_checkpointing": True, "checkpointed_blocks": "all"}))
    if not model.vae_tiling:
        found.append(StepDown(model={"vae_tiling": True}))
    if settings.optimizer.batch_passes == "together":
        found.append(StepDown(optimizer={"batch_passes": "one_by_one"}))
    most = max(0, blocks - ALWAYS_RESIDENT)
    found += [StepDown(model={"blocks_to_swap": n}) for n in (most // 2, most) if n > model.blocks_to_swap]
    finer = {"none": ["int8", "nf4"], "int8": ["nf4"], "fp8": ["nf4"]}
    kinds = finer.get(model.quantization, [])
    return found + [StepDown(model={"base_quantization": kind, "fp8_base": False}) for kind in kinds]


def with_settings(plan: Plan, settings: Settings) -> Plan:
    """The plan with other [model] or [optimizer] settings that change neither texts nor pictures."""
    plan.parts.model.residence = Residence.of(settings.model)
    return plan.with_settings(settings)


def card_of(settings: Settings, device: torch.device) -> int | None:
    """Bytes of GPU memory to plan for, without what other programs hold beyond a desktop's share; None: no GPU.

    CUDA has already taken memory for this process by now. The forecast counts that too, so it is added to what is free.
    """
    if settings.model.vram_gb is not None:
        return int(settings.model.vram_gb * GIB)
    if settings.model.card is not None:
        return CARDS[settings.model.card].memory * GIB
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return min(total, free + CUDA_CONTEXT + DESKTOP)


def block_count(plan: Plan) -> int:
    """Number of blocks of the transformer."""
    return plan.parts.model.depth


def recompute_as_few_as_fit(plan: Plan, predicted: Forecast, room: int) -> Forecast:
    """With checkpointed_blocks = "auto", chooses how many blocks are recomputed in the backward pass.

    Each further block that is kept costs more memory than the one before. So a straight line from a counted number to
    none recomputed never underestimates the memory in between. The search follows such a line `REFINEMENTS` times.

    Args:
        predicted: the forecast with all blocks recomputed.
        room: bytes that weights and training may take.

    Returns:
        The forecast with the chosen number, which is also set in the model's residence.
    """
    model, residence = plan.settings.model, plan.parts.model.residence
    if not model.gradient_checkpointing or model.checkpointed_blocks != "auto":
        return predicted
    stage = max(predicted.steps, key=lambda name: predicted.steps[name].footprint.total)
    blocks = block_count(plan)

    def total_with(kept: int) -> int:
        return count_step(plan, stage, replace(residence, recomputed=blocks - kept)).footprint.total

    most, kept, total = blocks - residence.blocks_to_swap, 0, predicted.steps[stage].footprint.total
    none = total_with(most)
    for _ in range(REFINEMENTS):
        more = int((room - total) / (max(1, none - total) / max(1, most - kept)))
        tried = min(most, kept + max(0, more))
        if tried == kept:
            break
        now = none if tried == most else total_with(tried)
        if now > room:
            break
        kept, total = tried, now
    while kept:  # the other stage has its own tensors and gaps
        plan.parts.model.residence = replace(residence, recomputed=blocks - kept)
        found = recounted(plan, predicted)
        if max(step.footprint.total for step in found.steps.values()) <= room:
            return found
        kept -= 1
    plan.parts.model.residence = residence
    return predicted


def fitted(plan: Plan, card: int | None) -> tuple[Plan, Forecast, list[StepDown]]:
    """The plan as it will run on a GPU, its forecast, and the steps down that auto_fit took.

    Args:
        card: bytes of GPU memory; None: the settings stay as they are.
    """
    predicted, taken = forecast(plan), []
    while card is not None and plan.settings.model.auto_fit and not predicted.fits(card):
        left = steps_down(plan.settings, block_count(plan))
        if not left:
            break
        taken.append(left[0])
        plan = with_settings(plan, left[0].taken(plan.settings))
        predicted = forecast(plan)
    if card is not None and predicted.fits(card):
        predicted = recompute_as_few_as_fit(plan, predicted, card - DESKTOP - CUDA_CONTEXT)
    return plan, predicted, taken


def check_auto_fit(settings: Settings, card: int | None) -> None:
    """Rejects auto_fit if there is no GPU to fit to.

    Raises:
        ConfigError: no NVIDIA GPU, and vram_gb is not given.
    """
    if settings.model.auto_fit and card is None:
        raise ConfigError(
            "auto_fit: this computer has no NVIDIA GPU to fit to.", "Set the memory to fit to, for example vram_gb = 8."
        )


# As text


def describe_fit(plan: Plan, predicted: Forecast, taken: list[StepDown], card: int | None) -> str:
    """Memory by phase, whether the run fits and what to do if not, disk space and time."""
    lines = [f"Set by auto_fit: {step}" for step in taken]
    lines.append(
        f"Estimated GPU memory (tensors counted, gaps between them simulated, {CUDA_CONTEXT / GIB:.2f} GiB assumed for "
        f"CUDA); {_blocks_in_words(plan)}"
    )
    lines += [f"  {name + ':':<20}{size / GIB:6.2f} GiB" for name, size in predicted.phases.items()]
    lines += [*verdict(plan, predicted, card), *_preset(plan, card), *_disk(plan, predicted)]
    lines += describe_times(plan, predicted, speed_for(plan.settings, plan.parts.model))
    return "\n".join(lines)


def _blocks_in_words(plan: Plan) -> str:
    residence, blocks = plan.parts.model.residence, block_count(plan)
    recomputed = blocks if residence.recomputed is None else residence.recomputed
    swapped = f", {residence.blocks_to_swap} swapped" if residence.blocks_to_swap else ""
    return f"{recomputed} of {blocks} blocks recomputed{swapped}"


def verdict(plan: Plan, predicted: Forecast, card: int | None) -> Iterator[str]:
    """Whether the run fits the GPU, or which GPUs it fits; if it doesn't fit, what to do."""
    fitting = [size for size in PRESETS if predicted.fits(size * GIB)]
    desktop = f"with {DESKTOP / GIB:.1f} GiB left for the desktop"
    if card is None:
        yield (
            f"Fits GPUs with {fitting[0]} GB or more, {desktop}."
            if fitting
            else f"Does not fit a GPU with {PRESETS[-1]} GB."
        )
        return
    if predicted.fits(card):
        yield f"Fits a GPU with {card / GIB:.1f} GiB, {desktop}."
        return
    phase = max(predicted.phases, key=lambda name: predicted.phases[name])
    yield f"Does not fit a GPU with {card / GIB:.1f} GiB, {desktop}: {phase} needs {predicted.peak / GIB:.2f} GiB."
    if spills(plan.parts.model.device.type == "cuda"):
        yield f"{_free_now(plan)}{SPILLS} {POLICY}"
    left = [*map(str, steps_down(plan.settings, block_count(plan))), LAST_RESORT]
    yield "To save memory, in this order: " + "; ".join(left) + ". --auto_fit does this automatically."


def _free_now(plan: Plan) -> str:
    """Free GPU memory, if the run is planned for the GPU in this computer."""
    if plan.settings.model.card is not None or plan.settings.model.vram_gb is not None:
        return ""
    free, total = torch.cuda.mem_get_info(plan.parts.model.device)
    return f"{free / GIB:.1f} of {total / GIB:.1f} GiB of GPU memory are free now. "


def _preset(plan: Plan, card: int | None) -> Iterator[str]:
    """The preset that was made for such a GPU."""
    name, made = plan.parts.model.family.card_presets.get(block_count(plan), ("", ()))
    presets = [size for size in made if card and size * GIB <= card]
    if presets:
        yield f"The preset for this GPU is presets/{name}_{presets[-1]}gb.toml."


def disk_use(plan: Plan, predicted: Forecast) -> tuple[int, int]:
    """Bytes of the cache, and roughly the bytes of results and saved states."""
    model, settings = plan.parts.model, plan.settings
    texts = len(plan.texts()) * model.text_shape.numbers * model.dtype.itemsize
    ways = [(picture.size, 2 if picture.subset.flip_aug else 1) for picture in plan.pictures]
    latents = sum(8 * n * _numbers(model.latent_shape(*size)) for size, n in ways)  # mean and deviation, 4 bytes each
    replayed = settings.pure_learning.replay_images if plan.uses_replay else 0
    cache = texts + latents + 4 * replayed * _numbers(model.latent_shape(*plan.replay_size))
    return cache, 24 * sum(step.learning for step in predicted.steps.values())


def _disk(plan: Plan, predicted: Forecast) -> Iterator[str]:
    cache, results = disk_use(plan, predicted)
    yield f"Disk: {cache / 1e6:.0f} MB of cache, about {results / 1e6:.0f} MB of results and saved states."


def _numbers(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
