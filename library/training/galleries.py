"""The sheets that the report shows, and how a resumed run finds those that were drawn before it stopped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from library.objectives import EXTRACTOR, STUDENT
from library.report.sheet import SheetRow, read_sheet

STRENGTHS = "strengths"
ORDER = (STUDENT, STRENGTHS, EXTRACTOR)
"""Kinds of sheets, as the report shows them."""
SHEET_OF_STUDENT = re.compile(r"student_(\d+)\.png")


@dataclass(frozen=True)
class Gallery:
    """The last sheet of a kind, for the report.

    Args:
        columns: what stands above the pictures of each seed; the first one is the pretrained model.
    """

    title: str
    columns: list[str]
    rows: list[SheetRow]


def galleries_of(folder: Path, done: dict[str, int]) -> dict[str, Gallery]:
    """The last sheet of each kind that a run had drawn when it had come so far.

    Args:
        folder: of the sheets.
        done: steps of each stage.
    """
    found: dict[str, Gallery] = {}
    if not folder.is_dir():
        return found
    steps = {int(match[1]): path for path in folder.iterdir() if (match := SHEET_OF_STUDENT.fullmatch(path.name))}
    last = max((step for step in steps if step <= done.get(STUDENT, 0)), default=None)
    files = {
        STUDENT: None if last is None else steps[last],
        EXTRACTOR: folder / "extractor.png" if done.get(EXTRACTOR) else None,
    }
    for kind, path in files.items():
        read = read_sheet(path) if path else None
        if read:
            title, columns, rows = read
            found[kind] = Gallery(title, list(dict.fromkeys(re.sub(r", seed \d+$", "", one) for one in columns)), rows)
    return found
