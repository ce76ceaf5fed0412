"""The lines of values in TOML and JSON: generated files in which each number is its own line number."""

import json
import random
import tomllib

import pytest

from library.config.places import places_in

KEYS = [
    "{}",
    "k-{}",
    "{}.{}.x",
    '"a key {}"',
    "'it = {}'",
    '"quo\\"te{}"',
    '"[{}]"',
    "dotted.{}",
    'dotted . "of two {}"',
]
NOISE = [
    '"# [x] = 5"',
    "'C:\\new'",
    '"""two\nlines\n[[a]]\nb = 1"""',
    "'''it''s\n'''",
    '""""quoted""""',
    "1979-05-27 07:32:00",
    "true",
    "-inf",
    '""',
    "''",
]
BETWEEN = [" ", "\n", "\n  # why = 1\n", "", "\t"]


class Writer:
    """Writes a random file in which each number is its own line number."""

    def __init__(self, seed: int, is_json: bool = False) -> None:
        self.chance, self.is_json, self.text, self.keys = random.Random(seed), is_json, "", 0

    def write(self, text: str) -> None:
        self.text += text

    def gap(self) -> None:
        gap = self.chance.choice(BETWEEN)
        self.write(gap.partition("#")[0] if self.is_json else gap)

    def number(self) -> None:
        self.write(str(self.text.count("\n") + 1))

    def key(self) -> None:
        self.keys += 1
        form = '"a {}"' if self.is_json else self.chance.choice(KEYS)
        self.write(form.replace("{}", f"k{self.keys}"))

    def value(self, depth: int = 0) -> None:
        kind = self.chance.choice(["number", "number", "list", "table", "noise"] if depth < 3 else ["number"])
        if kind == "list":
            self.entries("[", "]", lambda: self.value(depth + 1), self.gap)
        elif kind == "table":
            gap = self.gap if self.is_json else lambda: None
            self.entries("{", "}", lambda: self.pair(depth + 1), gap)
        elif kind == "noise" and not self.is_json:
            self.write(self.chance.choice(NOISE))
        else:
            self.number()

    def entries(self, begin: str, end: str, entry, gap) -> None:
        self.write(begin)
        for number in range(self.chance.randrange(4)):
            self.write("," if number else "")
            gap()
            entry()
            gap()
        self.write(end)

    def pair(self, depth: int = 0) -> None:
        self.key()
        self.write(":" if self.is_json else " = ")
        self.value(depth)

    def toml(self) -> str:
        lists = [f"list{number}" for number in range(3)]
        lists += [f"{name}.'inner [list]'" for name in lists]
        opened: set[str] = set()
        for _ in range(self.chance.randrange(30)):
            kind, name = self.chance.randrange(5), self.chance.choice(lists)
            self.keys += 1
            if kind == 0 and ("." not in name or name.partition(".")[0] in opened):
                opened = {one for one in opened if not one.startswith(f"{name}.")} | {name}
                self.write(f"  [[ {name} ]] # {name} = 1\n")
            elif kind == 1:
                parent = self.chance.choice([f"{one}." for one in sorted(opened)] or [""])
                self.write(f"[{parent}table{self.keys} . 'x']\n")
            else:
                self.pair()
                self.write(self.chance.choice(["\n", "\r\n", "  # a = 1\n", "\n\n"]))
        return self.text


def numbers_in(value, place=()):
    """Every whole number with its place."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        if isinstance(one, int) and not isinstance(one, bool):
            yield (*place, key), one
        yield from numbers_in(one, (*place, key))


@pytest.mark.parametrize("seed", range(20))
def test_every_value_of_a_toml_file_is_on_the_line_that_is_reported(seed):
    seen = 0
    for number in range(20):
        text = Writer(seed * 1000 + number).toml()
        places = places_in(text)
        assert places.twice is None, text
        for place, line in numbers_in(tomllib.loads(text)):
            assert places.lines[place] == line, text
            seen += 1
    assert seen > 50


@pytest.mark.parametrize("seed", range(20))
def test_every_value_of_a_json_file_is_on_the_line_that_is_reported(seed):
    for number in range(20):
        writer = Writer(seed * 1000 + number, is_json=True)
        writer.value()
        places = places_in(writer.text, is_json=True)
        assert places.twice is None
        for place, line in numbers_in(json.loads(writer.text)):
            assert places.lines[place] == line, writer.text


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ("a = 1\nb = 2\na = 3\n", (("a",), 1, 3)),
        ("[a]\nx = 1\n[b]\nx = 1\n[b.c]\n\n[a]\n", (("a",), 1, 7)),
        ("[[d]]\nx = 1\n[[d]]\nx = 1\ny = 2\n'x' = 3\n", (("d", 1, "x"), 4, 6)),
        ("[a]\n[[a]]\n", (("a",), 1, 2)),
        ("[[a]]\n[a]\n", (("a",), 1, 2)),
        ("[[d]]\n[[d.s]]\nx = 1\n[[d.s]]\nx = 1\n\nx = 1\n", (("d", 0, "s", 1, "x"), 5, 7)),
        ("a = {b = 1, c = 2, b = 3}\n", (("a", "b"), 1, 1)),
        ("a.b = 1\na.c = 1\na.b = 2\n", (("a", "b"), 1, 3)),
        ("a = [\n 1,\n {x = 1},\n {x = 1, y = 1, x = 2},\n]", (("a", 2, "x"), 4, 4)),
    ],
)
def test_a_repeated_key_has_both_lines(text, twice):
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(text)
    assert places_in(text).twice == twice


def test_a_missing_value_names_the_table():
    places = places_in("a = 1\n[[d]]\n[[d.s]]\nx = 1\n[[d.s]]\ny = 1\n")
    assert places.line_of(("d", 0, "s", 1, "x")) == 5
    assert places.line_of(("nowhere", 3)) is None


BROKEN = ["a = ", "[", "[[a", "a = [1,", "a = {b", "a", '"a', "= 1", "a = '''x", "\x00", "a.=1", "]"]


@pytest.mark.parametrize("text", BROKEN)
def test_a_text_that_is_not_toml_ends_the_scan(text):
    assert places_in("first = 1\n" + text).line_of(("first",)) == 1
