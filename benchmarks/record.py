"""A measurement as a JSON file, which says how and on what it was run, and as a table in a page.

The results in the docs are in `docs/measured`. A command writes its file with `--json docs/measured/NAME.json`,
and `python -m tools.tables` writes the tables.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FOLDER = Path("output/benchmark")
KINDS = ("counted", "measured", "transcribed")
"""Counted: exact for tensors on any machine. Measured: on the device that the file names. Transcribed: copied by hand
from the output of an earlier run of the command, whose file was not kept; `note` may add to the command."""


def add_json_to(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds --json, the file for a command's result.

    Args:
        default: where it goes without the option, for the help.
    """
    parser.add_argument("--json", type=Path, metavar="PATH", help=f"The result. Default: {default}.")


def write(
    path: Path,
    title: str,
    kind: str,
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    command: Sequence[str],
    formats: Mapping[str, str] | None = None,
    below: Mapping[str, Any] | None = None,
) -> None:
    """Writes a result.

    Args:
        title: a sentence above the table.
        kind: "counted" or "measured".
        rows: the results; numbers are in the unit in the column's heading.
        columns: of the table, each with its heading.
        command: the words of the command that repeats the measurement.
        formats: of the numbers in a column, such as ".1f"; without one, two decimals or two digits.
        below: an earlier result with the same columns. Its rows come first, and its command and commit are kept.
    """
    import torch

    from library.files.atomic import write_text

    device = "none" if kind == "counted" else device_name()
    about = {"title": title, "kind": kind, "commit": commit(), "torch": torch.__version__, "device": device}
    found = {**about, "command": " ".join(command), "columns": columns, "formats": formats or {}, "rows": list(rows)}
    if below is not None:
        run = {name: below[name] for name in ("commit", "torch", "command")}
        found |= {"earlier": [*below.get("earlier", []), run], "rows": [*below["rows"], *rows]}
    write_text(path, json.dumps(found, indent=2) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Reads a result."""
    return json.loads(path.read_text(encoding="utf-8"))


def device_name() -> str:
    """The name of the NVIDIA GPU; without one, "CPU" and its threads."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def commit() -> str:
    """The short name of the commit that is checked out."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def table(result: Mapping[str, Any], only: Mapping[str, str] | None = None) -> str:
    """A result as a Markdown table, without empty columns.

    Args:
        only: shows rows with these values in these columns, and leaves out the columns.
    """
    wanted, formats = only or {}, result.get("formats", {})
    rows = [row for row in result["rows"] if all(str(row[name]) == value for name, value in wanted.items())]
    given = {name for row in rows for name, value in row.items() if value is not None}
    columns = {name: heading for name, heading in result["columns"].items() if name in given - set(wanted)}
    lines = [f"| {' | '.join(columns.values())} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(_shown(row.get(name), formats.get(name)) for name in columns)} |" for row in rows]
    return "\n".join(lines)


def origin(result: Mapping[str, Any]) -> str:
    """Where a result comes from, as a line of Markdown."""
    command = f"`{result['command']}`"
    if result["kind"] == "counted":
        runs = [f"at commit {run['commit']} by `{run['command']}`" for run in (*result.get("earlier", []), result)]
        return f"Counted {', then '.join(runs)}."
    if result["kind"] == "transcribed":
        return f"From an earlier run of {command}{result.get('note', '')}."
    return f"Measured at commit {result['commit']} on {result['device']}, PyTorch {result['torch']}, by {command}."


def _shown(value: Any, spec: str | None) -> str:
    """A cell: a number by its format, two numbers as a range, three as a number and its interval, text as it is."""
    if isinstance(value, list):
        first, *rest = [_shown(one, spec) for one in value]
        return f"{first} ({' to '.join(rest)})" if len(rest) == 2 else " to ".join([first, *rest])
    if isinstance(value, int | float) and spec:
        return f"{value:{spec}}"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"
    return "" if value is None else str(value)
