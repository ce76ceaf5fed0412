"""Reviews captions without a model: the concept named once, not too long, without its looks, nothing unnamed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from library.captions.composition import names_looks
from library.captions.facts import Facts
from library.config.dataset import PLACEHOLDER, Concept
from library.data.folder import named
from library.models.interface import TokenCount
from library.preflight.caption_words import FEW_CAPTIONS, described, said_by_all, words_of
from library.preflight.finding import Finding
from library.prompts import PromptTriple, triggers_in, whole_word


@dataclass(frozen=True)
class Captioned:
    """A picture with its caption.

    Args:
        caption: as it is in its file.
        facts: the facts about the picture, if a model has looked.
        counts: tokens of the complete text.
    """

    picture: Path
    caption: str
    texts: PromptTriple
    facts: Facts | None
    counts: Sequence[TokenCount]


def review(captions: Sequence[Captioned], concept: Concept, looks: Sequence[str]) -> list[Finding]:
    """What is likely to be wrong with a concept's captions.

    Args:
        looks: what describes the subject, as far as it is known.
    """
    found = [*_concept_once(captions, concept), *_too_long(captions), *_alike(captions)]
    if concept.kind == "subject":
        found += described({one.picture: [one.caption] for one in captions}, concept)
        found += _looks(captions, looks)
    return [*found, *said_by_all([one.texts.base for one in captions], concept), *_unnamed(captions, concept, looks)]


def _names(captions: Sequence[Captioned]) -> str:
    return named([one.picture.name for one in captions])


def mentions(caption: str, concept: Concept) -> int:
    """How often a caption names the concept: [V], the trigger written out, or its placeholder."""
    other = caption.count(concept.placeholder) if concept.placeholder else 0
    return caption.count(PLACEHOLDER) + len(triggers_in(caption, concept.trigger)) + other


def _concept_once(captions: Sequence[Captioned], concept: Concept) -> Iterator[Finding]:
    several = [one for one in captions if mentions(one.caption, concept) > 1]
    if several:
        yield Finding(
            f"{len(several)} captions name the concept more than once: {_names(several)}.",
            f"Write {PLACEHOLDER} only once, at the first mention of the concept.",
        )
    without = [one for one in captions if not mentions(one.caption, concept)]
    if without:
        yield Finding(
            f"{len(without)} captions contain neither {PLACEHOLDER} nor the trigger: {_names(without)}.",
            f"The trainer adds {PLACEHOLDER} automatically; write it yourself to choose its place.",
        )
    if concept.kind == "style":
        return
    word = concept.class_word
    classes = {id(one): len(whole_word(word).findall(one.caption)) for one in captions}
    classless = [one for one in captions if not classes[id(one)]]
    if classless:
        yield Finding(
            f'{len(classless)} captions lack the class word "{word}": {_names(classless)}.',
            f'Write "{PLACEHOLDER} {word}", so that the base text still names the class.',
        )
    repeated = [one for one in captions if classes[id(one)] > 1]
    if repeated:
        yield Finding(
            f'{len(repeated)} captions contain the class word "{word}" more than once: {_names(repeated)}.',
            f"Keep it if the image shows another {word}; otherwise write it once, after {PLACEHOLDER}.",
        )


def _too_long(captions: Sequence[Captioned]) -> Iterator[Finding]:
    longest = {one.picture.name: max(one.counts, key=lambda count: count.needed - count.limit) for one in captions}
    cut = {name: count for name, count in longest.items() if count.needed > count.limit}
    if cut:
        said = [f"{name} ({count.encoder} {count.needed} of {count.limit})" for name, count in cut.items()]
        yield Finding(
            f"{len(cut)} captions have more tokens than an encoder reads: {named(said)}.",
            "Shorten them: what is cut off has no effect.",
        )


def _alike(captions: Sequence[Captioned]) -> Iterator[Finding]:
    same = defaultdict(list)
    for one in captions:
        same[" ".join(one.caption.split())].append(one)
    for several in (some for some in same.values() if len(some) > 1):
        yield Finding(
            f"{len(several)} images have the same caption: {_names(several)}.",
            "Describe what differs: place, light, view, other things.",
        )


def _looks(captions: Sequence[Captioned], looks: Sequence[str]) -> Iterator[Finding]:
    for look in looks:
        naming = [one for one in captions if names_looks(one.caption, [look])]
        if naming:
            yield Finding(
                f'{len(naming)} captions name "{look.split()[-1]}", and "{look}" seems to belong to the concept: '
                f"{_names(naming)}.",
                "Remove it, unless it describes something else: what a caption names is not learned.",
            )


def _unnamed(captions: Sequence[Captioned], concept: Concept, looks: Sequence[str]) -> Iterator[Finding]:
    """What all pictures show and no caption names; it would be learned with the concept."""
    seen = [one.facts for one in captions if one.facts]
    if len(seen) < max(FEW_CAPTIONS, len(captions)):
        return
    common = set.intersection(*(words_of(facts.whole()) for facts in seen))
    said = set().union(*(words_of(one.caption) for one in captions))
    own = words_of(" ".join([concept.class_word, concept.trigger, *looks]))
    if common - said - own:
        words = ", ".join(f'"{word}"' for word in sorted(common - said - own))
        yield Finding(
            f"All images show {words} and no caption names it, so it will be learned as part of {concept.name}.",
            "Name it in every caption, or add images without it.",
        )
