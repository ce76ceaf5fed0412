"""A record in a folder of pictures of what was written and seen, which tells a person's captions from ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from library.captions.facts import MOST_LOOKS, Facts, phrases
from library.errors import DataError
from library.files.atomic import write_text
from library.files.fingerprint import of_bytes
from library.files.text_file import read_text

RECORD = "purecc_captions.json"
OF_A_FILE = 4
"""Most texts remembered per file: after a kill, the previous one may still be there."""


class Record:
    """The record of a folder.

    A text is ours if its file is exactly as we wrote it. If the record is damaged, all texts count as a person's.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / RECORD
        said = self._read()
        self._texts = {name: known for name, known in _table(said.get("texts")).items() if isinstance(known, list)}
        self._facts: dict[str, dict[str, Any]] = _table(said.get("facts"))
        self._looks: dict[str, Any] = _table(said.get("looks"))

    def _read(self) -> dict[str, Any]:
        if not self.file.is_file():
            return {}
        try:
            return _table(json.loads(read_text(self.file, kind=DataError)))
        except (DataError, ValueError, RecursionError):
            return {}

    def is_ours(self, text: Path) -> bool:
        """Whether a caption file may be written: it is missing, empty, or as we left it."""
        if not text.exists():
            return True
        content = text.read_bytes()
        return not content.strip() or of_bytes(content) in self._texts.get(text.name, ())

    def write(self, file: Path, text: str) -> None:
        """Writes a caption. The record is written first, so a kill between the two leaves no doubt.

        Raises:
            StorageError: it can't be written.
        """
        known = [of_bytes(text.encode()), *self._texts.get(file.name, ())]
        self._texts[file.name] = list(dict.fromkeys(known))[:OF_A_FILE]
        self.save()
        write_text(file, text)

    def facts_of(self, picture: Path, content: str, question: str | None, model: str | None) -> Facts | None:
        """What was seen in a picture.

        Args:
            content: hash of the picture as it is now.
            question: that was asked; None: any.
            model: that was asked; None: any.
        """
        entry = _table(self._facts.get(picture.name))
        known = _is_of(entry, question, model) and entry.get("picture") == content
        return Facts.of(_table(entry.get("facts"))) if known else None

    def keep_facts(self, picture: Path, content: str, question: str, model: str, facts: Facts) -> None:
        """Saves the facts about a picture."""
        entry = {"picture": content, "question": of_bytes(question.encode()), "model": model}
        self._facts[picture.name] = {**entry, "facts": facts.as_table()}
        self.save()

    def looks(self, question: str | None, model: str | None) -> tuple[str, ...]:
        """What describes the subject, as far as it is known; see `facts_of`."""
        return phrases(self._looks.get("looks"), MOST_LOOKS) if _is_of(self._looks, question, model) else ()

    def keep_looks(self, question: str, model: str, looks: tuple[str, ...]) -> None:
        """Saves the looks."""
        self._looks = {"question": of_bytes(question.encode()), "model": model, "looks": list(looks)}
        self.save()

    def save(self) -> None:
        """Writes the record."""
        tables = {"texts": self._texts, "facts": self._facts, "looks": self._looks}
        write_text(self.file, json.dumps(tables, indent=1, ensure_ascii=False))


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_of(entry: dict[str, Any], question: str | None, model: str | None) -> bool:
    asked = None if question is None else of_bytes(question.encode())
    return asked in (None, entry.get("question")) and model in (None, entry.get("model"))
