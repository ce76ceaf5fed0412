"""Counts the steps that a pattern takes on a text, with a matcher that tries what `re` tries. It needs no clock."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from re import _constants as ops
from re import _parser

CHARACTERS = " a0_-,.{|$\n\0"
"""One of each kind of character that patterns tell apart."""
MOST_SAMPLES = 3
MOST_STEPS = 30_000


class TooManySteps(Exception):
    """A text takes more than `MOST_STEPS` steps; how many more doesn't matter."""


class Counter:
    """Matches one pattern and counts its steps.

    Args:
        method: of `re`, with which the pattern is used; "fullmatch" and "match" start only at the start of the text.
    """

    def __init__(self, pattern: str, flags: int = 0, method: str = "finditer") -> None:
        self.parsed, self.method = list(_parser.parse(pattern, flags)), method
        self.flags = re.compile(pattern, flags).flags

    def steps(self, text: str) -> int:
        """Steps that the pattern takes on a text."""
        self.text, self.count, at = text, 0, 0
        while at <= len(text):
            whole = self.method == "fullmatch"
            end = next((end for end in self._all(self.parsed, at) if not whole or end == len(text)), None)
            if self.method in ("match", "fullmatch"):
                break
            at = at + 1 if end is None or end == at else end
        return self.count

    def _all(self, nodes: list, at: int, index: int = 0) -> Iterator[int]:
        """Where a match of these nodes from here may end, in the order that `re` tries them."""
        if index == len(nodes):
            yield at
            return
        for end in self._one(*nodes[index], at):
            yield from self._all(nodes, end, index + 1)

    def _one(self, op, given, at: int) -> Iterator[int]:
        self.count += 1
        if self.count > MOST_STEPS:
            raise TooManySteps
        if op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
            yield from self._repeated(*given, at, greedy=op is ops.MAX_REPEAT)
        elif op is ops.SUBPATTERN:
            yield from self._all(list(given[3]), at)
        elif op is ops.BRANCH:
            for branch in given[1]:
                yield from self._all(list(branch), at)
        elif op is ops.AT:
            if self._is_at(given, at):
                yield at
        elif op in (ops.ASSERT, ops.ASSERT_NOT):
            begin = at if given[0] > 0 else at - given[1].getwidth()[0]
            found = begin >= 0 and next(self._all(list(given[1]), begin), None) is not None
            if found is (op is ops.ASSERT):
                yield at
        elif at < len(self.text) and is_of(self.text[at], op, given, self.flags):
            yield at + 1

    def _repeated(self, least: int, most, inner, at: int, greedy: bool, done: int = 0) -> Iterator[int]:
        if not greedy and done >= least:
            yield at
        for end in self._all(list(inner), at) if done < int(most) else ():
            if end > at:
                yield from self._repeated(least, most, inner, end, greedy, done + 1)
        if greedy and done >= least:
            yield at

    def _is_at(self, place, at: int) -> bool:
        word = re.compile(r"\w")
        before, behind = self.text[max(0, at - 1) : at], self.text[at : at + 1]
        return {
            ops.AT_BEGINNING: not before or (before == "\n" and bool(self.flags & re.MULTILINE)),
            ops.AT_BEGINNING_STRING: not before,
            ops.AT_END: not behind or behind == "\n",
            ops.AT_END_STRING: not behind,
            ops.AT_BOUNDARY: bool(word.match(before)) != bool(word.match(behind)),
            ops.AT_NON_BOUNDARY: bool(word.match(before)) == bool(word.match(behind)),
        }[place]


def is_of(character: str, op, given, flags: int = 0) -> bool:
    """Whether a node that matches one character matches this one."""
    if op is ops.IN:
        negated = given[0][0] is ops.NEGATE
        return negated is not any(is_of(character, *one, flags) for one in given if one[0] is not ops.NEGATE)
    if op is ops.RANGE:
        return given[0] <= ord(character) <= given[1]
    if op is ops.CATEGORY:
        kind = str(given).rpartition("_")[2].lower()[0]
        return bool(re.match(f"\\{kind.upper() if 'NOT' in str(given) else kind}", character))
    if op is ops.ANY:
        return character != "\n" or bool(flags & re.DOTALL)
    same = chr(given).lower() == character.lower() if flags & re.IGNORECASE else chr(given) == character
    return same is (op is ops.LITERAL)


def samples_of(op, given) -> list[str]:
    """Short texts that a node matches."""
    if op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
        return [one * max(1, given[0]) for one in samples_of_all(given[2])]
    if op is ops.SUBPATTERN:
        return samples_of_all(given[3])
    if op is ops.BRANCH:
        return [one for branch in given[1] for one in samples_of_all(branch)][:MOST_SAMPLES]
    if op in (ops.AT, ops.ASSERT, ops.ASSERT_NOT):
        return [""]
    if op is ops.LITERAL:
        return [chr(given)]
    return [one for one in CHARACTERS if is_of(one, op, given)] or ["x"]


def samples_of_all(nodes: Iterable) -> list[str]:
    """Short texts that these nodes match, one node after the other."""
    found = [""]
    for node in nodes:
        found = [begin + end for begin in found for end in samples_of(*node)][:MOST_SAMPLES]
    return found


def pumps(nodes: Iterable, before: str = "") -> Iterator[tuple[str, str]]:
    """For each part that may repeat: the text before it, and the text that it repeats."""
    for op, given in nodes:
        inner = {
            ops.MAX_REPEAT: lambda given=given: [given[2]],
            ops.MIN_REPEAT: lambda given=given: [given[2]],
            ops.SUBPATTERN: lambda given=given: [given[3]],
            ops.BRANCH: lambda given=given: given[1],
        }.get(op, list)()
        if op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
            yield from ((before, unit) for unit in samples_of_all(given[2]))
        for part in inner:
            yield from pumps(part, before)
        before += samples_of(op, given)[0]


def hostile_texts(pattern: str, flags: int, length: int) -> list[str]:
    """Texts that make a pattern backtrack: its repeats, repeated, with an end that it can't match."""
    found = [character * length for character in CHARACTERS]
    for before, unit in pumps(list(_parser.parse(pattern, flags))):
        found += [f"{before}{unit * length}\0", (before + unit) * length, f"{before}{unit * length}{before}"]
    return list(dict.fromkeys(found))


def worst_growth(pattern: str, flags: int = 0, method: str = "finditer", length: int = 24) -> tuple[float, str]:
    """The largest growth of the steps when the text doubles, 2 for a pattern that reads it once; and that text."""
    counter, worst = Counter(pattern, flags, method), (0.0, "")
    doubled = hostile_texts(pattern, flags, 2 * length)
    for text, twice in zip(hostile_texts(pattern, flags, length), doubled, strict=True):
        try:
            worst = max(worst, (counter.steps(twice) / counter.steps(text), text[:40]))
        except TooManySteps:
            return float("inf"), text[:40]
    return worst
