"""The time and memory of each part of a run, measured while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

PROCESS_STATUS, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Linux: the peak of the process's memory, and where "5" is written to reset it."""


@dataclass
class Phase:
    """The total of one kind of work in a run.

    Attributes:
        seconds: wall time, without that of phases inside.
        peak_bytes: most memory while it ran, on the GPU or, without one, of the process; None where unknown.
    """

    name: str
    seconds: float = 0.0
    peak_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


class Phases:
    """Measures phases, also nested ones.

    Args:
        device: whose memory is measured.
        before: what was measured until a run was stopped that now continues; the times add up.
    """

    def __init__(self, device: torch.device, before: Sequence[dict[str, Any]] = ()) -> None:
        self.device = device
        self._open: list[Phase] = []
        self._since = time.monotonic()
        self._phases = {phase["name"]: Phase(**phase) for phase in before}

    def begin(self, name: str) -> None:
        """Everything until `end` belongs to this phase, except nested phases."""
        self._charge()
        self._open.append(self._phases.setdefault(name, Phase(name)))

    def end(self) -> None:
        """Ends the latest phase."""
        self._charge()
        self._open.pop()

    @property
    def now(self) -> str | None:
        """The current phase, if any."""
        return self._open[-1].name if self._open else None

    def measured(self) -> list[Phase]:
        """Every phase so far, in order of their start."""
        self._charge()
        return list(self._phases.values())

    def _charge(self) -> None:
        """Adds the time since the last change to the current phase, and restarts the clock."""
        now, peak = time.monotonic(), _peak(self.device)
        if self._open:
            phase = self._open[-1]
            phase.seconds += now - self._since
            phase.peak_bytes = max(phase.peak_bytes or 0, peak) if peak is not None else phase.peak_bytes
        self._since = now
        _begin_anew(self.device)


def kind_of_memory(device: torch.device) -> str:
    """Whose memory `Phase.peak_bytes` is."""
    return "of the graphics card" if device.type == "cuda" else "of the process"


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if PROCESS_STATUS.is_file():
        lines = PROCESS_STATUS.read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of the whole run so far
    return None


def _begin_anew(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # if the system refuses, the peak is that of the whole run so far
            RESET_PEAK.write_text("5")
