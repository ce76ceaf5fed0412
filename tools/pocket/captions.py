"""Describes a scene in few words, which are always the same."""

from __future__ import annotations

import random

from tools.pocket.scenery import BACKGROUNDS
from tools.pocket.world import ATTRIBUTES, Scene

MENTIONED = 0.75
"""Chance that an attribute is in a caption."""
EMPTY = 0.1
"""Share of empty captions, for classifier-free guidance."""
TRIGGERS = ("sks", "ohwx", "zwx", "ukj")
"""Words without a meaning, to which a user can give one. No training caption has them: a model that has seen such words
has learnt to ignore them.
"""
SAYS_STYLE = 0.3
"""Chance that "in ink" becomes "in ink style"."""

WHERE = {name: f"on the {name}" if name == "beach" else f"in the {name}" for name in BACKGROUNDS}
WHEN = {"day": "by day", "night": "at night"}


def caption(scene: Scene, said: set[str], trigger: str | None = None, style_word: bool = False) -> str:
    """The caption with the attributes in `said`; it always names the object."""
    told = {name: word if name in said else "" for name, word in scene.attributes().items()}
    words = [
        _article(told["size"], told["colour"], trigger, scene.object),
        told["size"],
        told["colour"],
        trigger or "",
        scene.object,
        f"at {told['place']}" if told["place"] else "",
        WHERE.get(told["background"], ""),
        WHEN.get(told["time"], ""),
        f"in {told['style']}{' style' if style_word else ''}" if told["style"] else "",
    ]
    return " ".join(word for word in words if word)


def full_caption(scene: Scene) -> str:
    """Everything that can be said about the scene."""
    return caption(scene, set(ATTRIBUTES))


def training_caption(scene: Scene, rng: random.Random) -> str:
    """A caption as in training: some attributes, sometimes nothing."""
    if rng.random() < EMPTY:
        return ""
    said = {name for name in ATTRIBUTES if rng.random() < MENTIONED}
    return caption(scene, said, style_word=rng.random() < SAYS_STYLE)


def _article(*words: str | None) -> str:
    first = next(word for word in words if word)
    return "an" if first[0] in "aeio" or first == "umbrella" else "a"


def vocabulary() -> list[str]:
    """Every word that a caption can have, sorted, and a few that users write."""
    words = {"a", "an", "the", "at", "by", "in", "on", "of", "and", "style", "photo", "picture", *TRIGGERS}
    for name, options in ATTRIBUTES.items():
        words.update(options if name != "style" else (*options, "style"))
    return sorted(words)
