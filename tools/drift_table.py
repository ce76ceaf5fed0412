"""Which drift goes with which visible change, from the bench's trials: python -m tools.drift_table"""

from __future__ import annotations

import itertools
import json
import sys
import zipfile
from collections.abc import Iterator

import numpy as np

EDGES = (0.0, 0.02, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6)
SHOWN = {"unrelated": ("pixels", "accuracy"), "class": ("pixels", "contamination", "accuracy")}
CONTROLS = ("pretrained", "pretrained, other noise", "drawn")


def students(path: str) -> Iterator[dict[str, dict[str, list[float]]]]:
    """The values of every scored student in the trials, by sort of prompt and measure."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".json"):
                trial = json.loads(archive.read(name))
                if trial["arm"] not in CONTROLS:
                    yield from (one["probes"] for one in [*trial["checkpoints"], *trial.get("strengths", [])])


def main() -> None:
    """Prints a line for each range of drift."""
    found = list(students(sys.argv[1] if len(sys.argv) > 1 else "docs/bench/with-vectors/trials.zip"))
    print(f"{len(found)} students")
    for sort, measures in SHOWN.items():
        rows = np.array([[np.mean(one[sort][m]) for m in ("drift", *measures) if m in one[sort]] for one in found])
        for low, high in itertools.pairwise(EDGES):
            some = rows[(rows[:, 0] >= low) & (rows[:, 0] < high)]
            if len(some):
                means = ", ".join(f"{m} {v:.3f}" for m, v in zip(measures, some[:, 1:].mean(0), strict=True))
                print(f"{sort}, drift {low:g} to {high:g}: {len(some)} students, {means}")
        print(f"{sort}: correlation of drift and {measures[0]}: {np.corrcoef(rows[:, 0], rows[:, 1])[0, 1]:.3f}")


if __name__ == "__main__":
    main()
