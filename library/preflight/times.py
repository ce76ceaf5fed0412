"""Predicts how long each phase of a run takes: the counted work, at the speed of a named GPU or of this computer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from library.config.gpus import CARDS, GEMM, TRAFFIC, Speed, card_of_size
from library.config.settings import Settings
from library.models.family import FlowModel
from library.preflight.forecast import GIB, Forecast, forecast, phase_of
from library.preflight.phases import SHEETS, one_picture, phases
from library.preflight.plan import Plan

TRIES, SIDE = 5, {"cuda": 4096, "cpu": 512}
"""How often a product of square matrices is timed, and the width of the matrices."""
COPIED = {"cuda": 2**28, "cpu": 2**25}
"""Bytes of the copy that is timed."""
STARTED = 1000
"""Number of tiny operations that are timed, to learn how long an operation takes to start."""
SPREAD = {True: (0.75, 1.5), False: (0.5, 2.0)}
"""Factors between which a predicted time may be off, if the speed was measured (True) or not (False). Assumed; a run
times its own first steps."""


def speed_for(settings: Settings, model: FlowModel) -> Speed:
    """The speed to predict with: of the GPU or the GPU size in the settings, otherwise of this computer."""
    if settings.model.card:
        return CARDS[settings.model.card]
    if settings.model.vram_gb is not None and model.device.type == "cpu":
        return card_of_size(settings.model.vram_gb)
    return measured_speed(model.device, model.dtype)


def measured_speed(device: torch.device, dtype: torch.dtype) -> Speed:
    """Times a matrix product and a copy, and takes the best of a few tries. Leaves nothing on the device."""
    flops, bandwidth, start = _tried(device, dtype)
    name = "this computer's CPU"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        torch.cuda.empty_cache()
    return Speed(name, flops, bandwidth, start=start, known=True)


def _tried(device: torch.device, dtype: torch.dtype) -> tuple[float, float, float]:
    """Operations and bytes per second, and the seconds that an operation takes to start."""
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


def _best(run: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(TRIES):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best


def phase_seconds(plan: Plan, predicted: Forecast, speed: Speed) -> dict[str, float]:
    """Seconds of each phase of a run with an empty cache, in order."""
    return {phase.name: phase.seconds(speed) for phase in phases(plan, predicted)}


def step_seconds(plan: Plan, predicted: Forecast, speed: Speed) -> dict[str, float]:
    """Seconds per step of each stage, with all batches of the step."""
    batches = plan.settings.optimizer.gradient_accumulation_steps
    return {name: batches * predicted.steps[name].seconds(speed) for name in plan.stage_steps}


def steps_after(plan: Plan, predicted: Forecast, speed: Speed, passes: int) -> dict[str, float]:
    """What comes after each stage until the run ends, in steps of that stage.

    Multiplied by the measured time of a step, it gives seconds that don't depend on the forecast's speed.

    Args:
        passes: single-picture passes without a gradient that the report card takes.
    """
    seconds, found = phase_seconds(plan, predicted, speed), {}
    rest = one_picture(predicted, plan.size, passes).seconds(speed) + seconds[SHEETS]
    for stage, each in reversed(step_seconds(plan, predicted, speed).items()):
        found[stage] = rest / each
        rest += seconds[phase_of(stage)]
    return found


def counted_steps_after(plan: Plan, passes: int) -> dict[str, float]:
    """The same for a run without a forecast. Counting takes seconds, at full size about one step on a CPU."""
    return steps_after(plan, forecast(plan), speed_for(plan.settings, plan.parts.model), passes)


def planned_steps(plan: Plan, predicted: Forecast) -> dict[str, float]:
    """Seconds per step of each stage on this computer's GPU; empty without one, or if the settings name another."""
    model = plan.parts.model
    if model.device.type != "cuda" or plan.settings.model.card:
        return {}
    return step_seconds(plan, predicted, measured_speed(model.device, model.dtype))


def describe_times(plan: Plan, predicted: Forecast, speed: Speed) -> Iterator[str]:
    """The times as text, and what they are based on."""
    seconds = phase_seconds(plan, predicted, speed)
    numbers = f"{speed.flops / 1e12:.3g} TFLOPS, {speed.bandwidth / 1e9:.0f} GB/s"
    if speed.known:
        source = f"{numbers}, measured just now"
    else:
        source = f"{numbers} according to its maker, of which we assume {GEMM:.0%} and {TRAFFIC:.0%}; not measured"
    least, most = SPREAD[speed.known]
    yield f"Estimated time on {speed.name} ({source}); later runs reuse cached texts and images:"
    yield from (f"  {name + ':':<20}{_between(least * one, most * one):>18}" for name, one in seconds.items())
    steps = {name: step.seconds(speed) for name, step in predicted.steps.items()}
    each = ", ".join(f"{least * one:.2g} to {most * one:.2g} s in the {name}" for name, one in steps.items())
    total = sum(seconds.values())
    yield f"  total {_between(least * total, most * total)}; a step takes {each}"
    yield "  A few steps after each stage begins, the run says when that stage and the run will end."
    moved = max(step.moved for step in predicted.steps.values())
    if moved:
        yield f"Swapped blocks: {moved / GIB:.2f} GiB are copied to the GPU per step."


def _between(least: float, most: float) -> str:
    return f"{in_time(least)} to {in_time(most)}"


def in_time(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
