"""A benchmark's result: one JSON file for each run, which says what it was run on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
KINDS = ("counted", "measured")
"""Counted: exact for tensors, whatever the machine. Measured: on the device that the file names."""


def write(
    path: Path, title: str, kind: str, rows: Sequence[dict[str, Any]], columns: dict[str, str], command: Sequence[str]
) -> None:
    """Writes a result.

    Args:
        title: a sentence above the table.
        kind: "counted" or "measured".
        rows: what was found; numbers in the unit that the column's heading says.
        columns: what the table shows of a row, each with its heading.
        command: the words that give the result again.
    """
    import torch

    from library.files.atomic import write_text

    device = "none" if kind == "counted" else device_name()
    about = {"title": title, "kind": kind, "commit": commit(), "torch": torch.__version__, "device": device}
    text = json.dumps({**about, "command": " ".join(command), "columns": columns, "rows": list(rows)}, indent=2)
    write_text(path, text + "\n")


def read(path: Path) -> dict[str, Any]:
    """A result as it was written."""
    return json.loads(path.read_text(encoding="utf-8"))


def device_name() -> str:
    """The NVIDIA card at hand, or what there is instead."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def commit() -> str:
    """The commit that is checked out, in short."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def table(result: dict[str, Any]) -> str:
    """A result as a Markdown table."""
    columns = result["columns"]
    lines = [f"| {' | '.join(columns.values())} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(_in_words(row.get(name)) for name in columns)} |" for row in result["rows"]]
    return "\n".join(lines)


def _in_words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"
    if isinstance(value, list):
        return " to ".join(_in_words(one) for one in value)
    return "" if value is None else str(value)
