"""What the doctor finds in each picture before training: size, sharpness, duplicates."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import numpy as np

from gui.pictures import pictures_of
from gui.places import pocket_side
from gui.projects import Project
from library.data.images import image_size
from library.data.inspection import Look, look_at, nearly_same, same_files, surroundings_differ
from library.errors import DataError

REMEMBERED = 2000
"""Pictures whose findings are cached until they change."""
MOST = 10
"""Pictures beyond this are more than a subject needs."""


@lru_cache(REMEMBERED)
def _seen(path: Path, age: int) -> tuple[Look, tuple[int, int]] | str:
    """What a picture looks like and its size, cached by its time; an error text if it can't be read."""
    try:
        return look_at(path), image_size(path)
    except DataError as error:
        return f"{error.what.partition(': ')[2] or error.what} {error.remedy or ''}"


def notes_of(project: Project) -> tuple[list[str], dict[str, list[str]]]:
    """Findings about all pictures together, and about each by file name."""
    from library.preflight import doctor  # slow to import

    pictures, own = pictures_of(project), defaultdict[str, list[str]](list)
    seen = {path: _seen(path, path.stat().st_mtime_ns) for path in pictures}
    fine = {path: one for path, one in seen.items() if not isinstance(one, str)}
    for path, said in seen.items():
        if isinstance(said, str):
            own[path.name].append(f"Can't be read: {said}")
    side = pocket_side() if project.model == "pocket" else project.resolution
    median = float(np.median([look.sharpness for look, _ in fine.values()])) if fine else 0.0
    for path, (look, (width, height)) in fine.items():
        if doctor.ENLARGED * min(width, height) < side:
            own[path.name].append(
                f"Small: it will be enlarged to {side} pixels. Use a larger one, or train at a smaller size."
            )
        if look.sharpness < doctor.BLURRED_SHARE * median:
            own[path.name].append("Far less fine detail than the others; it may be blurred.")
        if look.has_several:
            own[path.name].append("Contains several pictures; only the first is used.")
    for (one, two), how in _twice(list(fine), [look for look, _ in fine.values()]).items():
        own[two.name].append(f"{how} as {one.name}. Keep one of them.")
    return _of_all(project, [look for look, _ in fine.values()], len(pictures), doctor), dict(own)


def _twice(paths: list[Path], looks: list[Look]) -> dict[tuple[Path, Path], str]:
    found = dict.fromkeys(same_files(paths), "The same file")
    for one, two in nearly_same(looks) if looks else ():
        found.setdefault((paths[one], paths[two]), "Nearly the same")
    return found


def _of_all(project: Project, looks: list[Look], count: int, doctor) -> list[str]:
    said = []
    if 0 < count < doctor.FEW_PICTURES:
        said.append(f"{count} {'picture is' if count == 1 else 'pictures are'} not many: 3 to 10 work best.")
    if count > MOST and project.kind == "subject":
        said.append(f"You don't need {count} pictures: 3 to 10 that differ in place, light and pose are enough.")
    if len(looks) >= doctor.FEW_PICTURES and surroundings_differ(looks) < doctor.ONE_BACKGROUND:
        said.append(
            "All pictures have nearly the same background, which may be learned too: add some from other places."
        )
    return said
