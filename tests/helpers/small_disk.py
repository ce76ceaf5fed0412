"""Full and read-only disks: real ones with a few hundred kB in memory, if mounting is allowed."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Mounts a disk of that size at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)], capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"mounting a disk is not allowed here: {tried.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    """Changes a mounted disk: "ro", "rw", "size=900k" ..."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def fill_up(folder: Path) -> Path:
    """Fills a disk with one file; removing the file frees the space."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    return filler
