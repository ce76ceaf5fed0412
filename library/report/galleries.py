"""The sheets that the report shows, before and after under a slider, and how a resumed run finds those of its past."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.predictions import EXTRACTOR, STUDENT
from library.report.page import Pictures, render
from library.report.sheet import SheetRow, as_image, read_sheet

STRENGTHS = "strengths"
ORDER = (STUDENT, STRENGTHS, EXTRACTOR)
"""Kinds of sheets, as the report shows them."""
MOST_PROMPTS = 24
"""Prompts of a sheet that the report shows."""
STRIP = 256
"""Longest side of a picture that is in a row with others, in pixels."""
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


def shown(by_kind: Mapping[str, Gallery], pictures: Pictures) -> str:
    """The section of the report with these galleries; nothing if there is none."""
    galleries = []
    for kind in [*ORDER, *sorted(set(by_kind) - set(ORDER))]:
        gallery = by_kind.get(kind)
        if gallery is None:
            continue
        if kind == STRENGTHS:
            galleries.append(_strip(gallery, pictures))
            continue
        wide, prompts = len(gallery.columns), []
        for row in gallery.rows[:MOST_PROMPTS]:
            pairs = []
            for begin in range(0, len(row.pictures), wide):
                before, *after = [as_image(picture) for picture in row.pictures[begin : begin + wide]]
                seed = begin // wide + 1
                for name, image in zip(gallery.columns[1:], after, strict=True):
                    about = f"{row.prompt or 'the empty prompt'}, seed {seed}"
                    pairs.append(
                        {
                            "label": f"seed {seed}" if wide == 2 else f"{name}, seed {seed}",
                            "name": name,
                            "about": about,
                            "before": pictures.tag(before, f"pretrained model: {about}"),
                            "after": pictures.tag(image, f"{name}: {about}"),
                        }
                    )
            prompts.append({"kind": row.kind, "text": row.prompt, "pairs": pairs})
        more = len(gallery.rows) - len(prompts)
        galleries.append({"title": gallery.title, "prompts": prompts, "more": more, "strips": []})
    return render("samples.html", galleries=galleries) if galleries else ""


def _strip(gallery: Gallery, pictures: Pictures) -> dict[str, Any]:
    """A gallery whose pictures are in a row each, not under a slider."""
    strips = []
    for row in gallery.rows:
        shown = zip(gallery.columns, map(as_image, row.pictures), strict=True)
        about = row.prompt or "the empty prompt"
        tags = [(name, pictures.tag(image, f"{about}, {name}", STRIP)) for name, image in shown]
        strips.append({"kind": row.kind, "text": row.prompt, "pictures": tags})
    return {"title": gallery.title, "prompts": [], "more": 0, "strips": strips}
