"""Settings that a family of models brings; each declares its own in the `settings.py` of its folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from library.config.fields import names_of

Own = TypeVar("Own")


@dataclass(frozen=True, kw_only=True)
class FamilySettings:
    """What a family brings.

    Args:
        family: what code calls it.
        sections: its settings by section, a dataclass each.
        often_changed: those of them that `--help` shows.
        synonyms: what other trainers call them, names with spaces between.
        layouts: of its LoRA files, by the names that `save_formats` has for them: the programs that each is for.
        usual_layouts: those that are saved if nobody says otherwise.
        attention, feed_forward: ends of the names of these layers in the blocks.
        text_attention, text_feed_forward: those of them that read one token of the text after the other.
    """

    family: str
    sections: Mapping[str, type] = field(default_factory=dict)
    often_changed: Collection[str] = ()
    synonyms: Mapping[str, str] = field(default_factory=dict)
    layouts: Mapping[str, str] = field(default_factory=dict)
    usual_layouts: Sequence[str] = ()
    attention: Sequence[str] = ()
    feed_forward: Sequence[str] = ()
    text_attention: Sequence[str] = ()
    text_feed_forward: Sequence[str] = ()


FAMILY_SETTINGS: dict[str, FamilySettings] = {}
"""Those of every family by its name; `library.models` has them all."""


def bring(own: FamilySettings) -> FamilySettings:
    """Makes a family's settings known to files, command line, help, checks and docs.

    Raises:
        ValueError: the family has brought some already, or another has brought one of them.
    """
    if own.family in FAMILY_SETTINGS:
        raise ValueError(f"the settings of {own.family} are known already")
    for section in own.sections:
        taken = names_in(section) & names_of(own.sections[section])
        if taken:
            raise ValueError(f"{own.family}: the setting {min(taken)} already exists")
    FAMILY_SETTINGS[own.family] = own
    return own


def groups_in(section: str) -> tuple[type, ...]:
    """What families bring to a section."""
    return tuple(one.sections[section] for one in FAMILY_SETTINGS.values() if section in one.sections)


def names_in(section: str) -> frozenset[str]:
    """The names of the settings that families bring to a section."""
    return frozenset().union(*map(names_of, groups_in(section)))


def layout_names() -> tuple[str, ...]:
    """The layouts of LoRA files that families have."""
    return tuple(_each_once(lambda one: one.layouts))


def about_layouts() -> str:
    """The same with the programs that each is for, as a sentence of help has them."""
    programs = {name: text for one in FAMILY_SETTINGS.values() for name, text in one.layouts.items()}
    return "; ".join(f"{name} for {text}" for name, text in programs.items())


def usual_layouts() -> list[str]:
    """The layouts that are saved if nobody says otherwise."""
    return _each_once(lambda one: one.usual_layouts)


def attention_layers() -> list[str]:
    """Ends of the names of the attention's layers, which get a LoRA if nobody says otherwise."""
    return _each_once(lambda one: one.attention)


def feed_forward_layers() -> list[str]:
    """Ends of the names of the feed-forward layers."""
    return _each_once(lambda one: one.feed_forward)


def text_attention_layers() -> list[str]:
    """Ends of the names of the attention's layers that read one token of the text after the other."""
    return _each_once(lambda one: one.text_attention)


def text_feed_forward_layers() -> list[str]:
    """Ends of the names of the feed-forward layers that do so."""
    return _each_once(lambda one: one.text_feed_forward)


def _each_once(names: Callable[[FamilySettings], Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for one in FAMILY_SETTINGS.values() for name in names(one)))


def own_part(group: object, own: type[Own]) -> Own:
    """A group of settings as the family that brought some of them reads it.

    Raises:
        TypeError: they were not read with what families bring.
    """
    if not isinstance(group, own):
        raise TypeError(f"the settings lack {own.__name__}")
    return group
