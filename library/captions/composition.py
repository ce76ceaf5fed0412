"""Composes a caption from facts: it names everything but the concept."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from library.captions.facts import Facts
from library.config.dataset import PLACEHOLDER, Concept
from library.prompts import triggers_in, whole_word

ARTICLES = ("a ", "an ", "the ")
LEADS = frozenset(
    re.findall(
        r"\w+",
        "in on at by under over near behind before beside between among against inside outside above below along "
        "across through into onto with within without around next",
    )
)
"""Words that start a place; other places come after a comma."""


@dataclass(frozen=True)
class Composed:
    """A caption, and the facts that it leaves out: unnamed, they are learned with the concept."""

    text: str
    too_long: tuple[str, ...] = ()
    """Facts that did not fit into the encoders' length."""
    of_the_concept: tuple[str, ...] = ()
    """Facts about the concept itself."""


def compose(facts: Facts, concept: Concept, looks: Sequence[str], fits: Callable[[str], bool]) -> Composed:
    """The caption of a picture.

    Args:
        looks: phrases that describe the subject; what it does is left out where it names them.
        fits: whether the encoders read all of a caption.
    """
    parts = _parts_of_style(facts, concept) if concept.kind == "style" else _parts_of_subject(facts, concept)
    leaks = [part for part in parts if part.of_concept and names_looks(part.text, looks)]
    parts, dropped = [part for part in parts if part not in leaks], list[str]()
    whole = _style if concept.kind == "style" else _subject
    while not fits(text := whole(parts, facts, concept)) and parts:
        last = max(parts, key=lambda part: (part.goes, parts.index(part)))
        parts = [part for part in parts if part is not last]
        dropped.append(last.text)
    return Composed(text, tuple(dropped), tuple(part.text for part in leaks))


def names_looks(text: str, looks: Sequence[str]) -> bool:
    """Whether a text names one of the looks, by what the phrase is about: its last word."""
    return any(whole_word(look.split()[-1]).search(text) for look in looks)


@dataclass(frozen=True)
class _Part:
    """A fact in a caption.

    Args:
        goes: if there are too many parts, the one with the highest number is dropped first.
        of_concept: whether it is about the subject.
    """

    text: str
    goes: int
    of_concept: bool = False


def _parts_of_subject(facts: Facts, concept: Concept) -> list[_Part]:
    state, place, shot, light, style = (
        without_names(text, concept) for text in (facts.state, facts.place, facts.shot, facts.light, facts.style)
    )
    first = [_Part(state, 0, of_concept=True), _Part(place, 1), *_others(facts, concept)]
    return _said_once([*first, _Part(shot, 2), _Part(light, 4), _Part(style, 5)])


def _parts_of_style(facts: Facts, concept: Concept) -> list[_Part]:
    return _said_once([_Part(without_names(facts.place, concept), 1), *_others(facts, concept)])


def _others(facts: Facts, concept: Concept) -> list[_Part]:
    """What else is in the picture: "another dog" is, "the dog" is the subject itself."""
    others = [one for one in facts.others if not triggers_in(one, concept.trigger)]
    return [_Part(one, 3) for one in others if without_names(one, concept)]


def _said_once(parts: Sequence[_Part]) -> list[_Part]:
    """The non-empty parts, each once."""
    return list({part.text.lower(): part for part in reversed(parts) if part.text}.values())[::-1]


def without_names(text: str, concept: Concept) -> str:
    """A phrase without trigger and class word: "the dog sitting" is "sitting"."""
    text = _without_word(_without_word(text, concept.trigger), concept.class_word)
    text = " ".join(text.split()).replace(" ,", ",").strip(" ,")
    return text.removeprefix("is ").removeprefix("are ")


def _without_word(text: str, word: str) -> str:
    """The text without a word, its article and its "'s"."""
    return re.sub(rf"(?:\b(?:a|an|the) )?(?<!\w){re.escape(word)}(?!\w)(?:['’]s\b)?", "", text, flags=re.I)


def _subject(parts: Sequence[_Part], facts: Facts, concept: Concept) -> str:
    medium = without_names(_without_article(facts.medium), concept) or "photo"
    return _joined(f"{_article(medium)} {medium} of a {PLACEHOLDER} {concept.class_word}", parts)


def _style(parts: Sequence[_Part], facts: Facts, concept: Concept) -> str:
    content = without_names(facts.content, concept) or "a picture"
    return f"{_joined(content, parts)}, in {PLACEHOLDER} {concept.class_word}"


def _joined(text: str, parts: Sequence[_Part]) -> str:
    for number, part in enumerate(parts):
        leads = part.text.split()[0].lower() in LEADS and number < 2
        text += f"{' ' if part.of_concept or leads else ', '}{part.text}"
    return text


def _without_article(text: str) -> str:
    return next((text[len(one) :] for one in ARTICLES if text.lower().startswith(one)), text)


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in tuple("aeio") else "a"
