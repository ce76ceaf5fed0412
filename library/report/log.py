"""The log of a run: one JSON line per step, also sent to trackers."""

from __future__ import annotations

import csv
import itertools
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from library.files.atomic import said_if_not_written, write_text, written
from library.report.trackers import Tracking, trackers_of

NOWHERE = Tracking()
"""No tracker."""
BIN_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Noise levels by which losses and lambda* are distinguished."""


def by_noise_level(sigma: Tensor, per_image: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Means of per-image values, (B,) each, over the images of each noise-level bin that has any."""
    table = {}
    for low, high in itertools.pairwise(BIN_EDGES):
        inside = (sigma >= low) & ((sigma < high) | (high == BIN_EDGES[-1]))
        if inside.any():
            table[f"{low}-{high}"] = {
                "images": int(inside.sum()),
                **means({name: values[inside] for name, values in per_image.items()}),
            }
    return table


ON_REPLAYED = frozenset({"replay", "surroundings", "prior", "word_replayed"})
"""Terms whose pictures are replayed ones."""


def means(per_image: dict[str, Tensor]) -> dict[str, float]:
    """The mean of each value over the images that have it; values that no image has are left out."""
    had = {name: values[~values.isnan()] for name, values in per_image.items()}
    return {name: float(values.mean()) for name, values in had.items() if len(values)}


def share_negative(values: Tensor) -> float:
    """Share of negative values among those that are not NaN."""
    return float((values[~values.isnan()] < 0).float().mean())


def summary(sigma: Tensor, parts: dict[str, Tensor], measures: dict[str, Tensor]) -> dict[str, Any]:
    """What is logged of a step: means over its images, and the same by noise level."""
    # Replayed pictures have noise levels of their own.
    per_image = {name: values.cpu() for name, values in {**parts, **measures}.items()}
    row: dict[str, Any] = means(per_image)
    if "lambda_star" in row:
        row["lambda_negative"] = share_negative(per_image["lambda_star"])
    same = {name: values for name, values in per_image.items() if name not in ON_REPLAYED}
    row["by_sigma"] = by_noise_level(sigma.cpu(), same)
    return row


class RunLog:
    """Writes `log.jsonl`, and sends the numbers of each step to trackers.

    Args:
        folder: where `log.jsonl` goes.
        stage_steps: the stages in their order and how many steps each has; trackers count steps through.
        keep_until: {stage: step} that a resumed run continues from; later lines are dropped. None: a new log.
        tracking: where else the values go.
    """

    def __init__(
        self,
        folder: Path,
        stage_steps: dict[str, int],
        keep_until: dict[str, int] | None,
        tracking: Tracking = NOWHERE,
    ) -> None:
        before = itertools.accumulate(stage_steps.values(), initial=0)
        self._steps_before = dict(zip(stage_steps, before, strict=False))
        self.path = folder / "log.jsonl"
        kept = [] if keep_until is None else [row for row in read_log(self.path) if _is_kept(row, keep_until)]
        # Always in place: a resumed run must read the file that it continues.
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept), durable=False)
        self._file = self.path.open("a", encoding="utf-8")
        self._step = 0 if keep_until is None else sum(keep_until.values())
        self._trackers = trackers_of(tracking, folder, None if keep_until is None else self._step + 1)

    def write(self, row: dict[str, Any]) -> None:
        """Adds the line of one step; it has "stage" and "step".

        Raises:
            StorageError: the disk is full.
        """
        with said_if_not_written(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        self._step = self._steps_before[row["stage"]] + row["step"]
        values = {f"{row['stage']}/{name}": value for name, value in row.items() if isinstance(value, float)}
        for tracker in self._trackers:
            tracker.scalars(values, self._step)

    def picture(self, name: str, path: Path) -> None:
        """A contact sheet after the last step."""
        for tracker in self._trackers:
            tracker.picture(name, path, self._step)

    def close(self) -> None:
        """Ends the log."""
        with suppress(OSError):  # a line that did not fit on the disk; `write` reported it
            self._file.close()
        for tracker in self._trackers:
            tracker.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last one that a killed run left half written is ignored."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """The same log as a table for spreadsheets; a missing value is an empty cell."""
    names = list(dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, dict)))
    with written(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, names, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)


def _is_kept(row: dict[str, Any], keep_until: dict[str, int]) -> bool:
    return row["step"] <= keep_until.get(row["stage"], 0)


def mean_of_end(rows: list[dict[str, Any]], name: str, share: float = 0.2) -> float | None:
    """Mean of a value over the last part of a stage's lines; None if they don't have it."""
    values = [row[name] for row in rows if name in row]
    if not values:
        return None
    end = values[-max(1, int(len(values) * share)) :]
    return float(torch.tensor(end).mean())
