"""Everything that belongs to a LoRA as one zip, to keep or to share. It names none of the user's folders."""

from __future__ import annotations

import io
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from markupsafe import escape

from gui.delivery import lora_of
from gui.places import ROOT, existing, inside
from gui.runs import Run
from library.config.groups import paths

SETTINGS, REPORT = "config.toml", "report.html"
TEXTS = frozenset({".toml", ".html", ".json"})
AT_ONCE = 1 << 20
"""Bytes read at a time."""
ELSEWHERE = "…"
"""The placeholder for a folder in texts."""


def contents(run: Run, step: int | None) -> dict[str, Path]:
    """The files of a step by their names in the zip: LoRA, siblings, preview, report and settings.

    Raises:
        ConfigError: nothing of this step is saved.
    """
    lora = lora_of(run, step)
    base = lora.removesuffix(".safetensors")
    maybe = [f"{base}.preview.png", f"{base}.json", REPORT, SETTINGS]
    names = [*run.files()[step], *(name for name in maybe if inside(run.folder, name).is_file())]
    return {name: existing(run.folder, name) for name in names}


def stream(run: Run, files: dict[str, Path]) -> Iterator[bytes]:
    """The zip in pieces; it is never whole in memory or on the disk."""
    folders, sink = _folders_of(run), _Sink()
    with ZipFile(sink, "w") as archive:
        for name, path in files.items():
            about = ZipInfo.from_file(path, name, strict_timestamps=False)
            if path.suffix in TEXTS:
                archive.writestr(about, _without(folders, path.read_text(encoding="utf-8")), ZIP_DEFLATED)
                yield sink.taken()
                continue
            with path.open("rb") as source, archive.open(about, "w") as target:
                while part := source.read(AT_ONCE):
                    target.write(part)
                    yield sink.taken()
    yield sink.taken()


class _Sink(io.RawIOBase):
    """A buffer for what is written; it can't seek."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        return len(part)

    def taken(self) -> bytes:
        whole = b"".join(self._parts)
        self._parts.clear()
        return whole


def _folders_of(run: Run) -> list[str]:
    """Folders that the run's files may name, longest first."""
    known = [run.folder, run.project.folder, run.project.folder.parent, ROOT, Path.home()]
    found = {str(folder) for folder in known} | {str(folder.resolve()) for folder in known}
    with suppress(OSError, ValueError):
        tables = tomllib.loads((run.folder / SETTINGS).read_text(encoding="utf-8"))
        found |= set(_parents(tables, ""))
    return sorted(found - {"", ".", "/"}, key=len, reverse=True)


def _parents(value: Any, name: str) -> Iterator[str]:
    """The folders of all paths in settings."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _parents(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _parents(inner, name)
    elif isinstance(value, str):
        kind = PureWindowsPath if "\\" in value or value[1:2] == ":" else PurePosixPath
        path = kind(value)
        if path.is_absolute() or name in paths():
            yield str(path.parent)
            yield path.parent.as_posix()


def _without(folders: list[str], text: str) -> str:
    for folder in folders:
        for written in (folder, folder.replace("\\", "\\\\"), str(escape(folder))):
            text = text.replace(written, ELSEWHERE)
    return text
