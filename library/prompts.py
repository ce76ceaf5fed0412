"""The three texts of a picture: complete, base and target. One rule makes all three, so they always match.

    complete   a [V] dog on the beach      what the picture shows, with the concept
    base       a dog on the beach          the same sentence without it
    target     [V] dog                     only the concept

For a style, the base text drops the whole phrase: "a house, in [V] style" becomes "a house". Other programs write
other placeholders instead of [V]; `foreign_placeholders` knows them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from library.config.dataset import PLACEHOLDER, Concept
from library.errors import DataError

NULL_PROMPT = ""
"""The empty prompt, for classifier-free guidance and for R(target) against null."""


@dataclass(frozen=True)
class PromptTriple:
    """The three texts of one caption, with [V] already replaced by the trigger, and the class without the concept."""

    complete: str
    base: str
    target: str
    class_only: str


def whole_word(word: str) -> re.Pattern[str]:
    """The pattern for a text as a whole word, in upper or lower case."""
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", flags=re.IGNORECASE)


def triggers_in(text: str, trigger: str) -> list[tuple[int, int]]:
    """Where a text has the trigger as a whole word: (first character, one past the last) each."""
    return [match.span() for match in whole_word(trigger).finditer(text)]


def with_trigger(text: str, concept: Concept) -> str:
    """The text with [V] replaced by the concept's trigger."""
    return text.replace(PLACEHOLDER, concept.trigger)


def derive(caption: str, concept: Concept, source: str) -> PromptTriple:
    """The three texts of a caption.

    A caption without [V] gets it before the class word; a style's gets ", in [V] style" at its end. The trigger itself
    counts as [V].

    Args:
        caption: as the user wrote it.
        source: its file, for error messages.

    Raises:
        DataError: the texts can't be derived.
    """
    placed = place(caption.strip(), concept, source)
    base = without_concept(placed, concept)
    if PLACEHOLDER in base or triggers_in(base, concept.trigger):
        raise DataError(
            f'{source}: without {PLACEHOLDER}, the caption "{caption}" becomes "{base}", which still names the '
            "concept.",
            f'Write "... {PLACEHOLDER} {concept.class_word} ..." and describe nothing else of the concept.',
        )
    return PromptTriple(
        complete=with_trigger(placed, concept),
        base=base,
        target=with_trigger(concept.target, concept),
        class_only=_tidy(concept.target.replace(PLACEHOLDER, " ")),
    )


def derive_without_concept(caption: str, concept: Concept) -> PromptTriple:
    """The texts of a regularisation picture: all are its caption without [V], so there is no concept guidance."""
    text, class_only = without_concept(caption, concept), _tidy(concept.target.replace(PLACEHOLDER, " "))
    return PromptTriple(complete=text, base=text, target=class_only, class_only=class_only)


def without_concept(text: str, concept: Concept) -> str:
    """The base text of any prompt: removes [V] or the trigger, and for a style its whole phrase."""
    text = _as_placeholder(text, concept)
    if concept.kind == "style":
        phrase = rf"{re.escape(PLACEHOLDER)}(?:\s+{re.escape(concept.class_word)}\b)?"
        *before, last = re.split(phrase, text, flags=re.IGNORECASE)
        return _tidy(" ".join([*map(_without_lead, before), last]))
    return _tidy(_mend_articles(text))


def _without_lead(text: str) -> str:
    """The text before a style's [V], without the ", in the" that leads to it."""
    for words in (("a", "an", "the"), ("in", "with")):
        text = _without_last_word(text, words)
    return text.rstrip().removesuffix(",")


def _without_last_word(text: str, words: tuple[str, ...]) -> str:
    """The text without its last word, if it is one of these and a space follows it."""
    head = text.rstrip()
    for word in words if head != text else ():
        rest = head[: -len(word)]
        if head[len(rest) :].lower() == word and not re.match(r"\w", rest[-1:]):
            return rest
    return text


def _as_placeholder(text: str, concept: Concept) -> str:
    if concept.placeholder:
        text = text.replace(concept.placeholder, PLACEHOLDER)
    return whole_word(concept.trigger).sub(PLACEHOLDER, text)


def place(caption: str, concept: Concept, source: str) -> str:
    """The caption with [V]: in place of the trigger, before the class word, or at the end of a style's caption.

    Raises:
        DataError: a subject's caption has neither.
    """
    caption = _as_placeholder(caption, concept)
    if PLACEHOLDER in caption:
        return caption
    class_word = whole_word(concept.class_word).search(caption)
    if class_word:
        return f"{caption[: class_word.start()]}{PLACEHOLDER} {caption[class_word.start() :]}"
    if concept.kind == "style":
        return f"{caption.rstrip(' .,')}, in {PLACEHOLDER} {concept.class_word}" if caption else concept.target
    raise DataError(
        f'{source}: the caption "{caption}" contains neither {PLACEHOLDER} nor the class word "{concept.class_word}".',
        f'Write "{PLACEHOLDER} {concept.class_word}" where the concept is, for example "a photo of {concept.target}".',
    )


def _mend_articles(text: str) -> str:
    """Removes [V] and fixes the article: "an [V] dog" becomes "a dog", "a [V] owl" "an owl", except before "u", "h"."""

    def mend(match: re.Match[str]) -> str:
        article, letter = match[1], match[2]
        if letter.lower() in "aeio":
            article = article[0] + "n"
        elif letter.lower() not in "uh":
            article = article[0]
        return f"{article} {letter}"

    text = re.sub(rf"\b([Aa]n?)\s+{re.escape(PLACEHOLDER)}\s+(\w)", mend, text)
    return text.replace(PLACEHOLDER, " ")


def _tidy(text: str) -> str:
    """Makes single spaces, with none before a comma, and removes commas at both ends."""
    text = " ".join(text.split())
    text = re.sub(r" ([,.;:!?])", r"\1", text)
    text = re.sub(r",{2,}", ",", text)
    return text.strip(" ,")


BRACKETED = (
    "v",
    "v*",
    "s*",
    "trigger",
    "trigger word",
    "trigger_word",
    "triggerword",
    "name",
    "token",
    "identifier",
    "concept",
    "subject",
    "instance",
    "placeholder",
    "embedding",
)
"""Words that stand for a concept if they are in [], <> or {}."""
BARE = (r"V\*", r"S\*", "TOK")
"""Placeholders that papers and trainers write without brackets, except the {} of Python's templates."""
FOREIGN = re.compile(
    rf"[\[<{{［【]{{1,2}} ?(?i:{'|'.join(re.escape(word) for word in BRACKETED)}) ?[\]>}}］】]{{1,2}}|{{}}"
    rf"|(?<![\w*])(?:{'|'.join(BARE)})(?![\w*])"
)


def foreign_placeholders(text: str, trigger: str = "") -> list[str]:
    """The placeholders in a caption that mean nothing here, as written, each once: "[trigger]", "<v>" ...

    Args:
        trigger: of the concept; placeholders inside it are part of it.
    """
    found = dict.fromkeys(match[0] for match in FOREIGN.finditer(text))
    return [one for one in found if one != PLACEHOLDER and one not in trigger]


def with_our_placeholder(text: str, trigger: str = "") -> str:
    """A caption or prompt with [V] in place of another program's placeholder, such as ai-toolkit's [trigger].

    Args:
        trigger: see `foreign_placeholders`.
    """
    return FOREIGN.sub(lambda match: match[0] if match[0] in trigger else PLACEHOLDER, text)
