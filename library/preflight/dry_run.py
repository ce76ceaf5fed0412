"""What `--dry_run --json` prints for other programs: docs/reference/status.md describes every field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from library.preflight.finding import Finding
from library.preflight.fit import StepDown, disk_use
from library.preflight.forecast import Forecast
from library.preflight.plan import Plan, cut_off
from library.preflight.times import SPREAD, phase_seconds, speed_for

FORMAT = 1


def dry_run_tables(
    plan: Plan, found: Sequence[Finding], predicted: Forecast, taken: Sequence[StepDown], card: int | None
) -> dict[str, Any]:
    """The plan, its findings and its forecast as JSON values: bytes, seconds, counts.

    Args:
        taken: the steps that auto_fit took.
        card: bytes of GPU memory; None: no GPU.
    """
    speed = speed_for(plan.settings, plan.parts.model)
    seconds = phase_seconds(plan, predicted, speed)
    together, (least, most) = sum(seconds.values()), SPREAD[speed.known]
    cache, results = disk_use(plan, predicted)
    return {
        "format": FORMAT,
        "pictures": len(plan.pictures),
        "stage_steps": plan.stage_steps,
        "findings": [asdict(finding) for finding in found],
        "cut_off": [line.strip() for line in cut_off(plan, plan.texts())],
        "memory": {"phases": predicted.phases, "peak": predicted.peak},
        "card": None if card is None else {"bytes": card, "fits": predicted.fits(card)},
        "taken": [str(step) for step in taken],
        "time": {
            "phases": seconds,
            "together": together,
            "between": [least * together, most * together],
            "on": speed.name,
            "measured": speed.known,
        },
        "disk": {"cache": cache, "results": results},
    }
