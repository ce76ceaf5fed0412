"""Checks the words of captions: words that describe the concept, and words that every caption contains."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from library.config.dataset import PLACEHOLDER, Concept
from library.preflight.finding import Finding

FEW_CAPTIONS = 3
"""With fewer different captions, a word that is in all of them means nothing."""
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the this that of in on at by to with and or is are its his her photo picture image drawing painting",
    )
)


def words_of(text: str) -> set[str]:
    """The lower-case words of a text that may describe an image: 3 letters or more, without stop words."""
    return set(re.findall(r"[^\W\d_]{3,}", text.lower())) - STOP_WORDS


def described(raw: Mapping[Path, Sequence[str]], concept: Concept) -> Iterator[Finding]:
    """Finds words inside the noun phrase of the concept, such as "red" in "a red [V] dog" or "[V] red dog"."""
    mark = rf"(?:{re.escape(PLACEHOLDER)}|{re.escape(concept.trigger)})"
    inside = re.compile(
        rf"(?:\b(?:a|an|the)\s+((?:[\w-]+\s+){{1,2}}))?{mark}\s+((?:[\w-]+\s+){{0,2}}){re.escape(concept.class_word)}\b",
        flags=re.IGNORECASE,
    )
    own = {}
    for path, texts in raw.items():
        match = next((found for text in texts if (found := inside.search(text))), None)
        words = [word for word in f"{match[1] or ''} {match[2]}".split() if word not in STOP_WORDS] if match else []
        if words:
            own[path.name] = " ".join(words)
    if own:
        yield Finding(
            f"{len(own)} captions describe the concept itself: "
            + ", ".join(f'"{words}" in {name}' for name, words in list(own.items())[:3])
            + ".",
            "Remove these words unless they differ between images: what a caption names is not learned.",
        )


def said_by_all(bases: Sequence[str], concept: Concept) -> Iterator[Finding]:
    """Finds words that every caption contains.

    Args:
        bases: the captions without the concept.
    """
    if len(set(bases)) < FEW_CAPTIONS:
        return
    common = set.intersection(*map(words_of, bases)) - set(concept.class_word.lower().split())
    if common:
        words = ", ".join(f'"{word}"' for word in sorted(common))
        yield Finding(
            f"Every caption of {concept.name} contains {words}, so these words will be learned too.",
            "Keep what surrounds the concept in every image; remove what belongs to the concept itself.",
        )
