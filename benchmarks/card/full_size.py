"""Memory and seconds at full size, with random weights; in the short form on the small bundled model."""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.card.scale import Scale, prepared
from benchmarks.variants import PLAIN, settings_of
from library.models.memory.residence import BACKENDS
from library.preflight.forecast import DESKTOP, GIB, OVERHEAD, PRESETS, forecast
from library.training.run import Run

STEPS = (PLAIN, "lean: without PureCC, + surroundings", "pure: all of it")
PHASES = {"extractor": "stage 1, extractor", "student": "stage 2, student", "words": "words"}
"""Phases of a run whose memory was predicted, by the name that the forecast has for them."""
SWAPPED, SWAPPED_SHORT = 12, 1
KINDS = (("bf16", False), ("fp16", False), ("bf16", True))
"""Precisions of a step, and whether it is compiled."""
SHAPES = {512: (4, 24, 1178, 64), 1024: (4, 24, 4250, 64)}
"""Batch, heads, tokens and width of a head of stage 2's attention, by the side of the picture."""
SHAPES_SHORT = {64: (2, 2, 64, 16)}


def memory(scale: Scale) -> list[dict[str, Any]]:
    """The peak of each preset that fits the card, against its forecast."""
    card = torch.cuda.get_device_properties(scale.device).total_memory if scale.device.type == "cuda" else None
    sizes = [size for size in PRESETS if card is None or size * GIB <= card + GIB // 2]
    rows = []
    for size in sizes[:1] if scale.short else sizes:
        rows += _memory_of(scale, f"sd35m_{size}gb", float(size))
    return rows


def _memory_of(scale: Scale, preset: str, size: float) -> list[dict[str, Any]]:
    settings = {"blocks_to_swap": 1} if scale.short else {}
    plan = scale.plan(preset, preset, vram_gb=size, **settings)
    predicted = forecast(plan).phases
    cuda = scale.device.type == "cuda"
    with scale.weights():
        run = Run(plan)
        run.train()
    found = json.loads((run.folder / "status.json").read_text(encoding="utf-8"))["phases"]
    rows = []
    for phase in found:
        name = PHASES.get(phase["name"])
        if name in predicted and phase["peak_bytes"]:
            rows.append(
                {
                    "preset": preset,
                    "phase": name,
                    "peak_gib": phase["peak_bytes"] / GIB,
                    "predicted_gib": (predicted[name] - OVERHEAD) / GIB,
                    **(_taken(scale, size) if cuda else {}),
                }
            )
    return rows


def _taken(scale: Scale, size: float) -> dict[str, float]:
    """What PyTorch has reserved at most, and what CUDA itself takes beside it."""
    free, total = torch.cuda.mem_get_info(scale.device)
    return {
        "reserved_gib": torch.cuda.max_memory_reserved(scale.device) / GIB,
        "cuda_gib": (total - free - torch.cuda.memory_reserved(scale.device)) / GIB,
        "room_gib": size - DESKTOP / GIB,
    }


def speed(scale: Scale) -> list[dict[str, Any]]:
    """Seconds of a plain LoRA step, of lean's and pure's, and of one by diffusers and PEFT."""
    from benchmarks.card.by_peft import peft_step

    size = {"resolution": scale.resolution, "train_batch_size": 1, "checkpointed_blocks": "all"}
    with scale.weights():
        run = prepared(scale.plan("pure", "speed", **size))
        steps: dict[str, Callable[[], Any]] = {}
        for name in STEPS:
            variant = copy.copy(run)
            variant.settle(settings_of(run.settings, name))
            steps[name] = variant.student_stage().step
        steps["plain LoRA by diffusers and PEFT"] = peft_step(run)
    seconds = timed(scale, steps)
    plain = seconds[PLAIN]["seconds"]
    return [{"step": name, **row, "ratio": row["seconds"] / plain} for name, row in seconds.items()]


def timed(scale: Scale, steps: dict[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
    """Median seconds and peak memory of steps that take turns, the first round left out."""
    cuda = scale.device.type == "cuda"
    found: dict[str, list[float]] = {name: [] for name in steps}
    peaks = dict.fromkeys(steps, 0)
    for turn in range(1 + scale.rounds):
        for name, step in steps.items():
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            begin = time.perf_counter()
            step()
            if cuda:
                torch.cuda.synchronize()
                peaks[name] = max(peaks[name], torch.cuda.max_memory_allocated())
            if turn:
                found[name].append(time.perf_counter() - begin)
    return {
        name: {"seconds": statistics.median(some), **({"peak_gib": peaks[name] / GIB} if cuda else {})}
        for name, some in found.items()
    }


def swapping(scale: Scale) -> list[dict[str, Any]]:
    """A step with swapped blocks and without: how much of the copying is hidden behind the computing."""
    rows, size = [], {"resolution": scale.resolution, "train_batch_size": 1, "checkpointed_blocks": "all"}
    for count in (0, SWAPPED_SHORT if scale.short else SWAPPED):
        with scale.weights():
            run = prepared(scale.plan("lean", "swapping", gradient_checkpointing=True, blocks_to_swap=count, **size))
        row = timed(scale, {"step": run.student_stage().step})["step"]
        rows.append({"swapped": count, **row})
        swap = run.parts.model.base.swap
        if swap is not None:
            before = swap.bytes_moved
            run.student_stage().step()
            moved = swap.bytes_moved - before
            rows[-1] |= {"moved_gb": moved / 1e9, "copying_s": moved / _bytes_a_second(scale)}
            rows[-1]["hidden"] = 1 - (row["seconds"] - rows[0]["seconds"]) / rows[-1]["copying_s"]
        del run
    return rows


def _bytes_a_second(scale: Scale) -> float:
    """From pinned memory to the device."""
    count = 2**20 if scale.short else 2**28
    host = torch.empty(count, dtype=torch.uint8, pin_memory=scale.device.type == "cuda")
    there = torch.empty_like(host, device=scale.device)
    seconds = timed(scale, {"copy": lambda: there.copy_(host, non_blocking=True)})["copy"]["seconds"]
    return count / seconds


def attention(scale: Scale) -> list[dict[str, Any]]:
    """Milliseconds of attention, there and back, by each kernel and precision."""
    rows = []
    for side, shape in (SHAPES_SHORT if scale.short else SHAPES).items():
        for dtype in (torch.bfloat16, torch.float16):
            for name, backend in {"auto": None, **BACKENDS}.items():
                about = {"pixels": side, "precision": str(dtype).removeprefix("torch."), "kernel": name}
                rows.append({**about, **_attention(scale, shape, dtype, backend)})
    return rows


def _attention(scale: Scale, shape: tuple[int, ...], dtype: torch.dtype, backend: SDPBackend | None) -> dict[str, Any]:
    x = torch.randn(shape, device=scale.device, dtype=dtype, requires_grad=True)

    def there_and_back() -> None:
        nn.functional.scaled_dot_product_attention(x, x, x).sum().backward()

    try:
        if backend is None:
            return {"ms": 1000 * timed(scale, {"": there_and_back})[""]["seconds"]}
        with sdpa_kernel(backend):
            return {"ms": 1000 * timed(scale, {"": there_and_back})[""]["seconds"]}
    except RuntimeError as error:
        return {"verdict": str(error).strip().splitlines()[0]}


def precision(scale: Scale) -> list[dict[str, Any]]:
    """A step of lean in fp16 and in bf16, with torch.compile and without."""
    rows, size = [], {"resolution": scale.resolution, "train_batch_size": 1, "checkpointed_blocks": "all"}
    for kind, compiled in KINDS[:1] if scale.short else KINDS:
        settings = {"mixed_precision": kind, "torch_compile": compiled, **size}
        with scale.weights():
            run = prepared(scale.plan("lean", "precision", **settings))
        row = timed(scale, {"step": run.student_stage().step})["step"]
        rows.append(
            {"precision": kind, "torch_compile": compiled, **row, "verdict": "; ".join(run.parts.model.notices)}
        )
        del run
    return rows
