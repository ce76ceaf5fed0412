"""Where the values of a TOML or JSON text stand: the line of each, whatever it is nested in.

The parsers say what a text holds, and not where. This scan finds out where, and leaves what is right to them: of a text
that they read, it finds every key and every entry of a list.
"""

from __future__ import annotations

import json
import re
import tomllib
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass, field

Place = tuple[str | int, ...]
"""The way to a value: keys, and numbers in lists; ("datasets", 0, "subsets", 1, "num_repeats")."""

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
        twice: the first place that is there twice, with both lines; None if there is none.
    """

    lines: dict[Place, int] = field(default_factory=dict)
    twice: tuple[Place, int, int] | None = None

    def line_of(self, place: Place) -> int | None:
        """The line of a value; of one that is not there, that of the table which lacks it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)

    def inside(self, outer: Place) -> Places:
        """The same of a text that is read as if it stood inside of `outer`."""
        return Places({(*outer, *place): line for place, line in self.lines.items()}, self.twice)


class _Lost(Exception):
    """The scan met something that is not of the language."""


def places_in(text: str, is_json: bool = False) -> Places:
    """Where the values of a text stand; of one that is not valid, those before its first mistake."""
    scan = _Scan(text, ":" if is_json else "=")
    with suppress(_Lost):
        scan.value(()) if is_json else scan.statements()
    return scan.places


class _Scan:
    """Goes through a text once.

    Args:
        equals: what stands between a key and its value.
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
        """A key; in TOML it may be several with dots between them."""
        keys = [self.key()]
        while self.equals == "=" and self.found("."):
            keys.append(self.key())
        return keys

    def key(self) -> str:
        """One key, out of its quotes."""
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
        """A value, and what is in it."""
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
        """The table that keys lead to; of a list of tables, its last."""
        for key in keys:
            table = (*table, key)
            self.places.lines.setdefault(table, self.line(begin))
            if table in self.lengths:
                table = (*table, self.lengths[table])
        return table

    def note(self, place: Place, begin: int) -> None:
        """That a value stands here."""
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
        """Passes over blanks, ends of lines and comments; says where it is then."""
        between = _BETWEEN.match(self.text, self.at)
        assert between is not None, "it fits nothing, too"
        self.at = between.end()
        return self.at

    def found(self, mark: str) -> bool:
        """Whether `mark` is next; if so, it is ignored."""
        if not self.text.startswith(mark, self.skip()):
            return False
        self.at += len(mark)
        return True

    def must_find(self, mark: str) -> None:
        """Passes over `mark`."""
        if not self.found(mark):
            raise _Lost

    def matched(self, *patterns: re.Pattern[str]) -> str | None:
        """What the first of the patterns that fits has found; it is ignored."""
        for pattern in patterns:
            match = pattern.match(self.text, self.at)
            if match:
                self.at = match.end()
                return match[0]
        return None
