"""What a run was trained on, kept with its results, so that a resumed run can report what has changed since."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from library.data.latents import Latents
from library.data.pictures import Picture
from library.files import fingerprint
from library.files.atomic import write_text
from library.terminal import say

FILE = "pictures.json"
NAMED = 4
"""Most changed pictures that are named."""


def note_pictures(folder: Path, pictures: Sequence[Picture], latents: Latents, resumed: bool) -> None:
    """Writes the hashes of each picture and its captions; a resumed run first reports what has changed.

    Args:
        folder: of the run's results.
        latents: of the pictures, prepared.
    """
    now, before = _hashes(pictures, latents), _read(folder / FILE) if resumed else {}
    if before and before != now:
        changed = [
            f"{Path(path).name} ({_what(before.get(path), now.get(path))})"
            for path in sorted(before.keys() | now.keys())
            if before.get(path) != now.get(path)
        ]
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        say(
            f"WARNING: images or captions have changed since the run stopped: {', '.join(changed[:NAMED])}{more}. The "
            "run continues with the new ones; use --overwrite to start from scratch."
        )
    write_text(folder / FILE, json.dumps(now, indent=1, ensure_ascii=False))


def _hashes(pictures: Sequence[Picture], latents: Latents) -> dict[str, dict[str, str]]:
    """For each file, one hash of its latents in every dataset and one of its texts."""
    places, texts = defaultdict(list), defaultdict(list)
    for picture in pictures:
        places[str(picture.path)].append(latents.place(picture))
        texts[str(picture.path)].append([vars(triple) for triple in picture.prompts])
    return {
        path: {"picture": fingerprint.of_key(places[path]), "captions": fingerprint.of_key(texts[path])}
        for path in places
    }


def _read(path: Path) -> dict[str, dict[str, str]]:
    """The saved hashes; empty if they can't be read, because they are only for comparison."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(one, dict) for one in found.values()) else {}


def _what(before: dict[str, str] | None, now: dict[str, str] | None) -> str:
    if not before or not now:
        return "gone" if before else "new"
    kinds = [kind for kind in ("picture", "captions") if before.get(kind) != now.get(kind)]
    return " and ".join(kinds)
