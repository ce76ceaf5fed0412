"""Problems that only Windows has: a driver that hides how full the GPU is, and paths that are too long."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from library.preflight.finding import Finding

SPILLS = (
    "On Windows, a run that needs more does not stop: NVIDIA's driver moves the rest into the computer's memory, and "
    "every step takes many times as long."
)
POLICY = (
    'Set "CUDA - Sysmem Fallback Policy" to "Prefer No Sysmem Fallback" (NVIDIA Control Panel, Manage 3D settings), '
    "so that a run that does not fit stops with an error, or saves memory with auto_fit."
)
"""The setting's name in the driver's control panel."""
MAX_PATH = 259
"""Most characters of a path on Windows, unless long paths are switched on: its MAX_PATH without the closing zero."""


def spills(works: bool) -> bool:
    """Whether the driver moves what doesn't fit on the GPU into the computer's memory.

    Args:
        works: PyTorch can use a GPU.
    """
    return sys.platform == "win32" and works


def longest_path() -> int | None:
    """Most characters that a path may have on this system; None: no limit that a run would reach."""
    if sys.platform != "win32":
        return None
    import ctypes

    try:
        switched_on = bool(ctypes.windll.ntdll.RtlAreLongPathsEnabled())
    except (AttributeError, OSError):  # before Windows 10
        switched_on = False
    return None if switched_on else MAX_PATH


def path_findings(paths: Sequence[Path], longest: int | None) -> Iterator[Finding]:
    """Finds paths that Windows refuses.

    Args:
        paths: absolute paths of files that will be written.
        longest: most characters that a path may have; None: no limit.
    """
    too_long = [path for path in paths if longest is not None and len(str(path)) > longest]
    if too_long:
        worst = max(too_long, key=lambda path: len(str(path)))
        yield Finding(
            f"Windows allows paths of {longest} characters, but the run will write longer ones, such as {worst} "
            f"({len(str(worst))}).",
            "Choose folders nearer to the root of the drive (output_dir, cache_dir, logging_dir) or a shorter "
            "output_name; or switch long paths on: LongPathsEnabled = 1 in the registry, under "
            r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Control\FileSystem.",
        )
