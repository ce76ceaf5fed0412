"""Finds the line of every value in a TOML or JSON text, at any depth.

The parsers don't say where a value is. This scan does, and leaves validity to them: in a text that they accept, it
finds every key and every entry of a list.
"""

from __future__ import annotations

import json
import re
import tomllib
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass, field

Place = tuple[str | int, ...]
"""The path to a value: keys, and numbers in lists; ("datasets", 0, "subsets", 1, "num_repeats")."""

_BETWEEN = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_TEXTS = [
    re.compile(r'"""(?:\\.|[^\\])*?"""(?:"{0,2})', re.DOTALL),
    re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL),
    re.compile(r'"(?:\\.|[^"\\\n])*"'),
    re.compile(r"'[^'\n]*'"),
]
_SCALAR = re.compile(r"[^,\]}#\n]+")


@dataclass
class Places:
    """The lines of a text's values.

    Args:
        lines: by place, counted from 1.
        twice: the first place that occurs twice, with both lines; None if there is none.
    """

    lines: dict[Place, int] = field(default_factory=dict)
    twice: tuple[Place, int, int] | None = None

    def line_of(self, place: Place) -> int | None:
        """The line of a value; for a missing one, the line of its table."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)

    def inside(self, outer: Place) -> Places:
        """The same for a text that is read as if it were inside `outer`."""
        return Places({(*outer, *place): line for place, line in self.lines.items()}, self.twice)


class _Lost(Exception):
    """The scan met something that is not valid."""


def places_in(text: str, is_json: bool = False) -> Places:
    """Where the values of a text are; for an invalid text, those before its first mistake."""
    scan = _Scan(text, ":" if is_json else "=")
    with suppress(_Lost):
        scan.value(()) if is_json else scan.statements()
    return scan.places


class _Scan:
    """Goes through a text once.

    Args:
        equals: the mark between a key and its value.
    """

    def __init__(self, text: str, equals: str) -> None:
        self.text = text
        self.equals = equals
        self.at = 0
        self.ends = [found.start() for found in re.finditer("\n", text)]
        self.places = Places()
        self.lengths = dict[Place, int]()
        self.whole = set[Place]()

    def statements(self) -> None:
        """The lines of a TOML text: [table], [[entry]] and key = value."""
        table: Place = ()
        while self.skip() < len(self.text):
            begin = self.at
            if self.found("[["):
                *outer, name = self.keys()
                self.must_find("]]")
                entries = (*self.inside((), outer, begin), name)
                if entries not in self.lengths:
                    self.note(entries, begin)
                number = self.lengths[entries] = self.lengths.get(entries, -1) + 1
                table = (*entries, number)
                self.note(table, begin)
            elif self.found("["):
                *outer, name = self.keys()
                self.must_find("]")
                table = (*self.inside((), outer, begin), name)
                self.note(table, begin)
            else:
                self.pair(table)

    def pair(self, table: Place) -> None:
        """A key with its value."""
        self.skip()
        begin = self.at
        *outer, name = self.keys()
        self.must_find(self.equals)
        place = (*self.inside(table, outer, begin), name)
        self.note(place, begin)
        self.value(place)

    def keys(self) -> list[str]:
        """A key; in TOML it may be several, separated by dots."""
        keys = [self.key()]
        while self.equals == "=" and self.found("."):
            keys.append(self.key())
        return keys

    def key(self) -> str:
        """One key, without its quotes."""
        self.skip()
        quoted = self.matched(*_TEXTS[2:])
        if quoted is None:
            bare = self.matched(_BARE_KEY)
            if bare is None:
                raise _Lost
            return bare
        try:
            return json.loads(quoted) if self.equals == ":" else tomllib.loads(f"key = {quoted}")["key"]
        except ValueError:
            raise _Lost from None

    def value(self, place: Place) -> None:
        """A value and its contents."""
        self.skip()
        if self.found("["):
            number = 0
            while not self.found("]"):
                self.places.lines[*place, number] = self.line(self.at)
                self.value((*place, number))
                self.found(",")
                number += 1
        elif self.found("{"):
            while not self.found("}"):
                self.pair(place)
                self.found(",")
        elif self.matched(*_TEXTS, _SCALAR) is None:
            raise _Lost

    def inside(self, table: Place, keys: list[str], begin: int) -> Place:
        """The table that keys lead to; for a list of tables, its last one."""
        for key in keys:
            table = (*table, key)
            self.places.lines.setdefault(table, self.line(begin))
            if table in self.lengths:
                table = (*table, self.lengths[table])
        return table

    def note(self, place: Place, begin: int) -> None:
        """Notes that a value is here."""
        line = self.line(begin)
        if place in self.whole:
            self.places.twice = self.places.twice or (place, self.places.lines[place], line)
            return
        self.whole.add(place)
        self.places.lines[place] = line

    def line(self, at: int) -> int:
        """The number of the line of a character."""
        return bisect_left(self.ends, at) + 1

    def skip(self) -> int:
        """Skips blanks, line ends and comments; returns the new position."""
        between = _BETWEEN.match(self.text, self.at)
        assert between is not None, "it fits nothing, too"
        self.at = between.end()
        return self.at

    def found(self, mark: str) -> bool:
        """Whether `mark` is next; if so, skips it."""
        if not self.text.startswith(mark, self.skip()):
            return False
        self.at += len(mark)
        return True

    def must_find(self, mark: str) -> None:
        """Skips `mark`, which must be next."""
        if not self.found(mark):
            raise _Lost

    def matched(self, *patterns: re.Pattern[str]) -> str | None:
        """The match of the first pattern that fits; skips it."""
        for pattern in patterns:
            match = pattern.match(self.text, self.at)
            if match:
                self.at = match.end()
                return match[0]
        return None
