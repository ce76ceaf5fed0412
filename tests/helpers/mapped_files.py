"""Which files a process has mapped into memory."""

from pathlib import Path


def is_mapped(path: Path) -> bool:
    """Whether this process has a file mapped into memory."""
    return str(path.resolve()) in Path("/proc/self/maps").read_text()
