"""Which drift goes with which visible change, from the bench's trials: python -m tools.drift_table [--json PATH]"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.method.compare import CONTROLS
from benchmarks.record import add_json_to, table, write

EDGES = (0.0, 0.02, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6)
MEASURES = {
    "pixels": "change of images, of 2",
    "accuracy": "prompt following, change",
    "contamination": "concept's looks",
}
SHOWN = {"unrelated": ("pixels", "accuracy"), "class": ("pixels", "accuracy", "contamination")}
TRIALS = Path("docs/bench/trials-96.zip")


def students(path: Path) -> Iterator[dict[str, dict[str, list[float]]]]:
    """The values of every scored student in the trials, by sort of prompt and measure."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".json"):
                trial = json.loads(archive.read(name))
                if trial["arm"] not in CONTROLS:
                    yield from (one["probes"] for one in [*trial["checkpoints"], *trial.get("strengths", [])])


def by_drift(found: list[dict[str, dict[str, list[float]]]], sort: str) -> tuple[list[dict[str, Any]], float]:
    """The mean measures of the students in each range of drift, and the correlation of drift and change of images."""
    names = ("drift", *SHOWN[sort])
    rows = np.array([[np.mean(one[sort][name]) for name in names] for one in found])
    ranges = []
    for low, high in itertools.pairwise(EDGES):
        some = rows[(rows[:, 0] >= low) & (rows[:, 0] < high)]
        if len(some):
            means = dict(zip(names[1:], some[:, 1:].mean(0).tolist(), strict=True))
            ranges.append({"prompts": sort, "drift": f"{low:g} to {high:g}", "students": len(some), **means})
    return ranges, float(np.corrcoef(rows[:, 0], rows[:, 1])[0, 1])


def main() -> None:
    """Writes and prints a row for each range of drift."""
    parser = argparse.ArgumentParser(description="Which drift goes with which visible change.")
    parser.add_argument("trials", nargs="?", type=Path, default=TRIALS, help=f"A zip of trials. Default: {TRIALS}.")
    add_json_to(parser, "none")
    given = parser.parse_args()
    found = list(students(given.trials))
    parts = {sort: by_drift(found, sort) for sort in SHOWN}
    for sort, (_, correlation) in parts.items():
        print(f"{sort}: correlation of drift and change of images over {len(found)} students: {correlation:.3f}")
    columns = {"prompts": "prompts", "drift": "drift", "students": "students", **MEASURES}
    result = {
        "title": "Visible change by drift",
        "rows": [row for ranges, _ in parts.values() for row in ranges],
        "columns": columns,
        "formats": dict.fromkeys(MEASURES, ".3f"),
    }
    if given.json:
        write(given.json, kind="measured", command=["python", "-m", "tools.drift_table", *sys.argv[1:]], **result)
    print(table(result))


if __name__ == "__main__":
    main()
