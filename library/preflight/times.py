"""How long a run takes, predicted by phase: what was counted, at the speed of a card, named or at hand."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from library.config.settings import Settings
from library.models import FlowModel
from library.objectives import EXTRACTOR, STUDENT
from library.preflight.forecast import DECODE, ENCODE, GIB, TEXT, Forecast, phase_of
from library.preflight.plan import Plan
from library.prepare.context_vectors import PICTURES_A_STEP
from library.prepare.regions import PASSES
from library.roofline import CARDS, DISK, GEMM, TRAFFIC, Speed, card_of_size

TRIES, SIDE = 5, {"cuda": 4096, "cpu": 512}
"""How often a product of square matrices is timed, and their width."""
COPIED = {"cuda": 2**28, "cpu": 2**25}
"""Numbers of a copy that is timed."""
STARTED = 1000
"""Operations on next to nothing that are timed."""
LOADING, REPLAY, CONTEXT, SHEETS = "loading", "replay", "context", "sheets"


def speed_for(settings: Settings, model: FlowModel) -> Speed:
    """The speed to predict with: of the card that the settings name, of the device at hand, or of a card that size."""
    if settings.model.card:
        return CARDS[settings.model.card]
    if settings.model.vram_gb is not None and model.device.type == "cpu":
        return card_of_size(settings.model.vram_gb)
    return measured_speed(model.device, model.dtype)


def measured_speed(device: torch.device, dtype: torch.dtype) -> Speed:
    """The best of a few tries at a product of matrices and at a copy. Nothing of them is left on the device."""
    flops, bandwidth, start = _tried(device, dtype)
    name = "this computer's CPU"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        torch.cuda.empty_cache()
    return Speed(name, flops, bandwidth, start=start, known=True)


def _tried(device: torch.device, dtype: torch.dtype) -> tuple[float, float, float]:
    """Operations and bytes a second, and seconds that an operation takes to start."""
    kind = device.type if device.type in SIDE else "cpu"
    side = SIDE[kind]
    matrix, numbers = torch.ones(side, side, device=device, dtype=dtype), torch.zeros(COPIED[kind] // dtype.itemsize)
    numbers = numbers.to(device=device, dtype=dtype)
    product = _best(lambda: float((matrix @ matrix)[0, 0]))  # reading a number waits for the device
    copy = _best(lambda: float(numbers.clone()[0]))
    small = torch.zeros(1, device=device, dtype=dtype)
    start = _best(lambda: float(_many_steps(small))) / STARTED
    return 2 * side**3 / product, 2 * numbers.nbytes / copy, start


def _many_steps(small: torch.Tensor) -> torch.Tensor:
    for _ in range(STARTED):
        small = small + 1
    return small


def _best(run) -> float:
    best = float("inf")
    for _ in range(TRIES):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best


def phase_seconds(plan: Plan, predicted: Forecast, speed: Speed) -> dict[str, float]:
    """Seconds of each phase of a run that finds nothing in its cache, in order."""
    settings, parts = plan.settings, predicted.parts
    compute = {part: footprint.work.seconds(speed) for part, footprint in parts.items()}
    one_pass, rows = predicted.sampling
    drawing, guided = one_pass.seconds(speed) / rows, 2 if settings.samples.guidance_scale > 1 else 1
    latents = sum((2 if picture.subset.flip_aug else 1) * len(picture.crops) for picture in plan.pictures)
    seconds = {
        TEXT: -(-len(plan.texts()) // plan.parts.model.texts_at_once) * compute[TEXT] + parts[TEXT].read / DISK,
        ENCODE: latents * compute[ENCODE],
        LOADING: predicted.transformer / DISK,
    }
    if plan.uses_replay:
        passes = settings.pure_learning.replay_images * settings.pure_learning.replay_sample_steps
        seconds[REPLAY] = guided * passes * drawing
    if passes := passes_of_context(plan):
        seconds[CONTEXT] = passes * drawing
    of_step = step_seconds(plan, predicted, speed)
    seconds |= {phase_of(name): steps * of_step[name] for name, steps in plan.stage_steps.items()}
    columns, sheets = _pictures_of_sheets(plan)
    steps = sum(prompt.steps or settings.samples.sample_steps for prompt in plan.samples)
    seconds[SHEETS] = settings.samples.sample_seeds * (
        columns * guided * steps * drawing + sheets * len(plan.samples) * compute[DECODE]
    )
    return seconds


def step_seconds(plan: Plan, predicted: Forecast, speed: Speed) -> dict[str, float]:
    """Seconds of a step of each stage, all batches of it."""
    batches = plan.settings.optimizer.gradient_accumulation_steps
    return {name: batches * predicted.steps[name].seconds(speed) for name in plan.stage_steps}


def planned_steps(plan: Plan, predicted: Forecast) -> dict[str, float]:
    """Seconds of a step of each stage on the card that will make it; nothing without one, or if another is named."""
    model = plan.parts.model
    if model.device.type != "cuda" or plan.settings.model.card:
        return {}
    return step_seconds(plan, predicted, measured_speed(model.device, model.dtype))


def passes_of_context(plan: Plan) -> int:
    """Passes of one picture that regions and context vectors take; one with a gradient counts as three."""
    settings, subjects = plan.settings, [one.name for one in plan.config.concepts if one.kind == "subject"]
    learned = 3 * PICTURES_A_STEP * settings.context.context_train_steps * len(subjects)
    shown = sum(picture.concept.name in subjects and not picture.subset.is_reg for picture in plan.shown)
    drawn = settings.pure_learning.replay_images // 2 if settings.pure_learning.surroundings_weight else 0
    return (learned + shown * PASSES if settings.context.context_vectors else 0) + drawn * PASSES


def _pictures_of_sheets(plan: Plan) -> tuple[int, int]:
    """For each prompt and seed, how many pictures are drawn for all sheets, and how many decoded."""
    every, steps = plan.settings.samples.sample_every_n_steps, plan.stage_steps[STUDENT]
    students = 2 + (-(-steps // every) - 1 if every else 0)
    vectors = 1 if plan.settings.teaches_word else 0
    extractors = len(plan.config.concepts) if EXTRACTOR in plan.stage_steps else 0
    return 1 + students + vectors + extractors, 2 * students + vectors + (1 + extractors if extractors else 0)


def describe_times(plan: Plan, predicted: Forecast, speed: Speed) -> Iterator[str]:
    """The times in words, and what they rest on."""
    seconds = phase_seconds(plan, predicted, speed)
    numbers = f"{speed.flops / 1e12:.3g} TFLOPS, {speed.bandwidth / 1e9:.0f} GB/s"
    if speed.known:
        source = f"{numbers}, measured just now"
    else:
        source = f"{numbers} by its maker, of which {GEMM:.0%} and {TRAFFIC:.0%} are assumed; never tried on one"
    yield f"Time, predicted for {speed.name} ({source}); later runs find texts and pictures in the cache:"
    yield from (f"  {name + ':':<20}{_in_words(one):>8}" for name, one in seconds.items())
    steps = {name: step.seconds(speed) for name, step in predicted.steps.items()}
    each = ", ".join(f"{one:.2g} s in the {name}" for name, one in steps.items())
    yield f"  together {_in_words(sum(seconds.values()))}; a step takes {each}"
    moved = max(step.moved for step in predicted.steps.values())
    if moved:
        yield f"Swapped blocks: {moved / GIB:.2f} GiB travel to the card each step."


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
