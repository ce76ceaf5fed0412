"""Where the time of a run goes and how much memory each part of it takes, measured while it runs.

Between two phases the GPU has back what nothing holds any more, so that each takes what was forecast for it alone.
"""

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
    """One kind of work of a run, all of it together.

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
    """Measures phases, also such as lie inside each other.

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
        """All that happens until its `end` belongs to this phase, but for what belongs to phases inside."""
        self._charge()
        _give_back(self.device)
        self._open.append(self._phases.setdefault(name, Phase(name)))

    def end(self) -> None:
        """The phase that began last is over."""
        self._charge()
        self._open.pop()
        _give_back(self.device)

    @property
    def now(self) -> str | None:
        """The phase that runs, if one does."""
        return self._open[-1].name if self._open else None

    def measured(self) -> list[Phase]:
        """Every phase until now, in the order in which they began."""
        self._charge()
        return list(self._phases.values())

    def _charge(self) -> None:
        """Puts what has passed since the last change down to the phase that runs, and starts counting again."""
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

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of the whole run until now
    return None


def _give_back(device: torch.device) -> None:
    """What a phase leaves to PyTorch's allocator would only be gaps in the next, whose tensors have other sizes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _begin_anew(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # where the system does not let us, the peak is that of the whole run until now
            RESET_PEAK.write_text("5")
