"""Variants of a caption: shuffled and dropped tags, drawn wildcards. All are known before training and encoded once."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from library.chance import seed_for
from library.config.dataset import PLACEHOLDER, Subset

OPENED, CLOSED = "\x01", "\x02"
"""Stand for {{ and }}, literal braces, while wildcards are drawn."""
BRACES = re.compile(r"([{}])")
MOST_NESTED = 64
"""Deepest nesting of wildcards; deeper braces stay braces."""
COUNT = re.compile(r"(\d{0,9})(?:-(\d{1,9}))?")
"""How many choices a wildcard draws: "2" or "1-3"; empty means one."""


def makes_variants(subset: Subset, captions: Sequence[str]) -> bool:
    """Whether a subset's captions vary."""
    wild = subset.enable_wildcard and any("{" in caption or "}" in caption for caption in captions)
    return subset.shuffle_caption or subset.caption_tag_dropout_rate > 0 or wild


def variants_of(
    captions: Sequence[str], subset: Subset, seed: int, count: int, with_concept: Callable[[str], str]
) -> list[str]:
    """N variants of a picture's captions, each caption in turn; at least one of each.

    Args:
        with_concept: puts [V] into a caption, before its tags are separated.
    """
    variants = []
    for number in range(max(count, len(captions))):
        caption = captions[number % len(captions)]
        chance = random.Random(seed_for(seed, "caption", number, caption))
        if subset.enable_wildcard:
            caption = drawn(caption, chance)
        variants.append(rearranged(with_concept(caption), subset, chance))
    return variants


def drawn(caption: str, chance: random.Random) -> str:
    """A caption with drawn wildcards: {a|b} becomes a or b, {2$$, $$a|b|c} two of three; {{ and }} are braces."""
    text = caption.replace("{{", OPENED).replace("}}", CLOSED)
    levels: list[list[str]] = [[]]  # the text so far: of the whole, and of each open wildcard
    for piece in BRACES.split(text):
        if piece == "{" and len(levels) <= MOST_NESTED:
            levels.append([])
        elif piece == "}" and len(levels) > 1:
            inside = "".join(levels.pop())
            levels[-1].append(_one_of(inside, chance))
        else:
            levels[-1].append(piece)
    text = "{".join("".join(pieces) for pieces in levels)
    return text.replace(OPENED, "{").replace(CLOSED, "}")


def _one_of(inside: str, chance: random.Random) -> str:
    head, counted, rest = inside.partition("$$")
    count = COUNT.fullmatch(head) if counted else None
    if not count:
        return chance.choice(inside.split("|"))
    separator, separated, listed = rest.partition("$$")
    choices = (listed if separated else rest).split("|")
    least = int(count[1] or 1)
    most = int(count[2]) if count[2] else least
    wanted = chance.randint(min(least, most), max(least, most))
    return ((separator if separated else "") or ", ").join(chance.sample(choices, min(wanted, len(choices))))


def rearranged(caption: str, subset: Subset, chance: random.Random) -> str:
    """A caption with its tags shuffled and some dropped, as the subset says; that with [V] is never dropped."""
    separator, head, middle, tail = subset.caption_separator, [], caption, []
    fixed = subset.keep_tokens_separator
    if fixed and fixed in caption:
        parts = caption.split(fixed, 2)
        head, middle = _tags(parts[0], separator), parts[1]
        tail = _tags(parts[2], separator) if len(parts) > 2 else []
        flexible = _tags(middle, separator)
    else:
        tags = _tags(caption, separator)
        head, flexible = tags[: subset.keep_tokens], tags[subset.keep_tokens :]
    if subset.shuffle_caption:
        chance.shuffle(flexible)
    if subset.caption_tag_dropout_rate:
        rate = subset.caption_tag_dropout_rate
        flexible = [tag for tag in flexible if chance.random() >= rate or PLACEHOLDER in tag]
    text = f"{separator} ".join([*head, *flexible, *tail])
    return text.replace(subset.secondary_separator, f"{separator} ") if subset.secondary_separator else text


def _tags(text: str, separator: str) -> list[str]:
    return [tag.strip() for tag in text.split(separator.strip() or separator) if tag.strip()]
