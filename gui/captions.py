"""The captions of a project's pictures: the prompts that each becomes, its length, and undo."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from gui.pictures import pictures_of
from gui.projects import Project
from library.config.dataset import PLACEHOLDER
from library.data.captions import read_caption
from library.errors import DataError, PureCCError
from library.files.atomic import remove, write_text
from library.prompts import PromptTriple, derive

HISTORY = "captions.jsonl"
"""The captions before each change, for undo: one line of JSON per change, oldest first."""
MOST_CHANGES = 200
LONGEST = 2000
"""Characters of a caption."""


@dataclass(frozen=True)
class Caption:
    """A picture's caption.

    Args:
        text: as it is written; "" if there is none.
        triple: the three texts that it becomes; None if none can be made.
        problem: why not, as a sentence.
    """

    picture: Path
    text: str
    triple: PromptTriple | None
    problem: str | None


def caption_file(picture: Path) -> Path:
    """The file of a picture's caption."""
    return picture.with_suffix(".txt")


def text_of(picture: Path) -> str:
    """The first line of a picture's caption; "" without one.

    Raises:
        DataError: the file can't be read.
    """
    file = caption_file(picture)
    if not file.is_file():
        return ""
    return next((line.strip() for line in read_caption(file).splitlines() if line.strip()), "")


def fallback(project: Project) -> str:
    """The prompt for a picture without a caption."""
    if project.kind == "style":
        return f"a picture in {PLACEHOLDER} style"
    of_pocket = project.model == "pocket"
    return f"a {PLACEHOLDER} {project.class_word}" if of_pocket else f"a photo of a {PLACEHOLDER} {project.class_word}"


def caption_of(project: Project, picture: Path) -> Caption:
    """A picture's caption and what it becomes."""
    try:
        text = text_of(picture)
        return Caption(picture, text, derive(text or fallback(project), project.concept(), picture.name), None)
    except DataError as error:
        text = "" if not caption_file(picture).is_file() else _as_it_is(picture)
        return Caption(picture, text, None, f"{error.what.removeprefix(f'{picture.name}: ')} {error.remedy or ''}")
    except PureCCError as error:
        return Caption(picture, _as_it_is(picture), None, str(error))


def _as_it_is(picture: Path) -> str:
    try:
        return text_of(picture)
    except DataError:
        return ""


def captions_of(project: Project) -> list[Caption]:
    """All captions, in the order of the pictures."""
    return [caption_of(project, picture) for picture in pictures_of(project)]


def write(project: Project, texts: dict[Path, str]) -> None:
    """Writes captions and notes what they were before. An empty caption is removed.

    Args:
        texts: by picture.
    """
    before = {path.name: _as_it_is(path) for path in texts}
    wanted = {path: " ".join(text.split())[:LONGEST] for path, text in texts.items()}
    changed = {path: text for path, text in wanted.items() if text != before[path.name]}
    if not changed:
        return
    _note(project, {path.name: before[path.name] for path in changed})
    for path, text in changed.items():
        _put(path, text)


def _put(picture: Path, text: str) -> None:
    if text:
        write_text(caption_file(picture), text + "\n", durable=False)
    else:
        remove(caption_file(picture))


def history(project: Project) -> list[dict]:
    """The changes that can be undone, oldest first."""
    file = project.folder / HISTORY
    if not file.is_file():
        return []
    changes = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            change = json.loads(line)
        except ValueError:  # a line that was cut off
            continue
        if isinstance(change, dict) and isinstance(change.get("before"), dict):
            changes.append(change)
    return changes


def _note(project: Project, before: dict[str, str]) -> None:
    changes, now = history(project), time.time()
    last = changes[-1] if changes else None
    if last and last["before"].keys() == before.keys() and now - last.get("at", 0) < 20 and len(before) == 1:
        last["at"] = now  # typing in one caption is one change
    else:
        changes.append({"at": now, "before": before})
    _save_history(project, changes[-MOST_CHANGES:])


def _save_history(project: Project, changes: list[dict]) -> None:
    lines = "".join(json.dumps(change, ensure_ascii=False) + "\n" for change in changes)
    write_text(project.folder / HISTORY, lines, durable=False)


def undo(project: Project) -> int:
    """Undoes the last change; returns how many captions it changed."""
    changes = history(project)
    if not changes:
        return 0
    before = changes.pop()["before"]
    by_name = {path.name: path for path in pictures_of(project)}
    restored = {by_name[name]: str(text) for name, text in before.items() if name in by_name}
    for path, text in restored.items():
        _put(path, text)
    _save_history(project, changes)
    return len(restored)


def replaced(project: Project, find: str, by: str) -> dict[Path, str]:
    """The captions that contain a text, with it replaced by another; case-sensitive."""
    texts = {path: _as_it_is(path) for path in pictures_of(project)}
    return {path: text.replace(find, by) for path, text in texts.items() if find and find in text}


def empty_ones(project: Project) -> list[Path]:
    """Pictures without a caption."""
    return [path for path in pictures_of(project) if not _as_it_is(path)]
