"""The questions about a picture, and how answers are read. An answer is a stranger's text: bounded and never
trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from library.config.dataset import Concept

LONGEST_ANSWER = 8000
"""Most characters of an answer; a good one has a few hundred."""
MOST_WORDS = 14
"""Most words of one fact."""
MOST_OTHERS, MOST_LOOKS = 6, 8
"""Most entries read from a list."""
NO_PART_OF_A_PHRASE = re.compile(r"[^\w\s,'’.&%/-]|_")
"""Characters with a meaning in captions, as in [V], {a|b} or <lora:...>, which no phrase needs."""
SAYS_NOTHING = frozenset(
    ("", "none", "no", "n/a", "null", "nothing", "unknown", "unclear", "not visible", "not applicable", "empty")
)
"""Answers that mean "unknown"."""
SUBJECT = """\
This picture shows one {class_word} that matters. Never describe that {class_word}: not its colour, material, shape,
size, markings, parts, clothes, brand, age, breed or face. Call it "{class_word}" and nothing else.
Name everything else exactly, in short English phrases, without guesses and without sentences.
Answer with one JSON object and nothing else:
{{"medium": "photo, drawing, oil painting, 3d render, ...",
 "shot": "close-up, full length, from above, from the side, ...",
 "state": "what the {class_word} does and how: sitting, running to the left, lying on its side, ...",
 "place": "where it is, with what is under and behind it: on a wooden bench in a park, ...",
 "others": ["each other thing, animal or person that can be seen"],
 "light": "soft evening light, flash, neon light, ...",
 "style": "only if the picture has one: black and white, blurred background, ..."}}
An empty text stands for what can't be seen."""
STYLE = """\
Say what is depicted in this picture. Never say how: no medium, brush, line, palette, colours, technique, mood, epoch or
artist. Use short English phrases, without guesses and without sentences.
Answer with one JSON object and nothing else:
{{"content": "the main thing that is depicted: an old woman reading a letter, ...",
 "place": "where it is: in a kitchen, by the sea, ...",
 "others": ["each other thing, animal or person that can be seen"]}}
An empty text stands for what can't be seen."""
LOOKS = """\
All these pictures show the same {class_word}. Name what belongs to that {class_word} itself and stays the same from
picture to picture, such as its colours, markings, parts and what it wears: 5 to 8 phrases of at most three words.
Answer with one JSON object and nothing else: {{"looks": ["brown fur", "white paws", "red bib"]}}"""
AGAIN = "\nYour last answer was not such a JSON object. Answer with the JSON object alone."


class BrokenAnswer(ValueError):
    """An answer is unusable, and why."""


@dataclass(frozen=True)
class Facts:
    """What a picture shows besides the concept; an empty text where nothing is known."""

    medium: str = ""
    shot: str = ""
    state: str = ""
    content: str = ""
    place: str = ""
    light: str = ""
    style: str = ""
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Facts:
        """The facts in a table; everything else in it is ignored."""
        texts = {field.name: phrase(said.get(field.name)) for field in fields(cls) if field.name != "others"}
        return cls(**texts, others=phrases(said.get("others"), MOST_OTHERS))

    def as_table(self) -> dict[str, Any]:
        """For JSON; `of` reads it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def whole(self) -> str:
        """Everything that is named, in one text."""
        return ", ".join([*(str(getattr(self, field.name)) for field in fields(self)[:-1]), *self.others])


def question_for(concept: Concept) -> str:
    """The question about each picture."""
    return (STYLE if concept.kind == "style" else SUBJECT).format(class_word=concept.class_word)


def question_of_looks(concept: Concept) -> str:
    """The question that is asked once, about several pictures."""
    return LOOKS.format(class_word=concept.class_word)


def read_facts(answer: str) -> Facts:
    """The facts of an answer to `question_for`.

    Raises:
        BrokenAnswer: it is too long, not a JSON object, or answers nothing.
    """
    found = Facts.of(_object_in(answer))
    if found == Facts():
        raise BrokenAnswer("it contains none of the requested facts")
    return found


def read_looks(answer: str) -> tuple[str, ...]:
    """The phrases of an answer to `question_of_looks`.

    Raises:
        BrokenAnswer: it is too long, not a JSON object, or has no phrase.
    """
    found = phrases(_object_in(answer).get("looks"), MOST_LOOKS)
    if not found:
        raise BrokenAnswer("it lists no looks")
    return found


def _object_in(answer: str) -> dict[str, Any]:
    """The JSON object in an answer, whatever surrounds it."""
    if len(answer) > LONGEST_ANSWER:
        raise BrokenAnswer(f"it has more than {LONGEST_ANSWER} characters")
    begin, end = answer.find("{"), answer.rfind("}")
    if begin < 0 or end < begin:
        raise BrokenAnswer("it contains no JSON object")
    try:
        found = json.loads(answer[begin : end + 1])
    except (ValueError, RecursionError) as error:
        raise BrokenAnswer(f"its JSON is broken ({str(error)[:80]})") from error
    return found


def phrases(value: Any, most: int) -> tuple[str, ...]:
    """The phrases of a list, or of a text in its place; the first `most`, each once."""
    values = value if isinstance(value, list | tuple) else str(value).split(",") if isinstance(value, str) else []
    return tuple(list(dict.fromkeys(found for one in values if (found := phrase(one))))[:most])


def phrase(value: Any) -> str:
    """A text as part of a caption: short, only words, starting in lower case; "" if it is not a text."""
    if not isinstance(value, str):
        return ""
    words = NO_PART_OF_A_PHRASE.sub(" ", value[:LONGEST_ANSWER]).split()
    text = " ".join(words[:MOST_WORDS]).strip(" ,.'’&%/-")
    if text.lower() in SAYS_NOTHING:
        return ""
    return text[0].lower() + text[1:] if text[1:2].islower() or len(words[0]) == 1 else text
