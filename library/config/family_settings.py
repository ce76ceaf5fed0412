"""Settings of a family of models. Each family declares its own in the `settings.py` of its folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from library.config.fields import names_of

Own = TypeVar("Own")


@dataclass(frozen=True, kw_only=True)
class FamilySettings:
    """A family's settings.

    Args:
        family: its name in code.
        sections: its settings by section, a dataclass each.
        often_changed: settings that `--help` shows.
        synonyms: their names in other trainers, separated by spaces.
        layouts: of its LoRA files: by each one's name in `save_formats`, the programs that it is for.
        usual_layouts: layouts that are saved by default.
        attention, feed_forward: endings of these layers' names in the blocks.
        text_attention, text_feed_forward: those that process the text's tokens one by one.
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
"""The settings of every family by name; importing `library.models` registers them."""


def bring(own: FamilySettings) -> FamilySettings:
    """Registers a family's settings for files, command line, help, checks and docs.

    Raises:
        ValueError: the family has registered settings before, or another family has registered one of these.
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
    """The groups that families add to a section."""
    return tuple(one.sections[section] for one in FAMILY_SETTINGS.values() if section in one.sections)


def names_in(section: str) -> frozenset[str]:
    """The names of the settings that families add to a section."""
    return frozenset().union(*map(names_of, groups_in(section)))


def layout_names() -> tuple[str, ...]:
    """The layouts of LoRA files that families have."""
    return tuple(_each_once(lambda one: one.layouts))


def about_layouts() -> str:
    """The layouts, with the programs that each is for, as text for the help."""
    programs = {name: text for one in FAMILY_SETTINGS.values() for name, text in one.layouts.items()}
    return "; ".join(f"{name} for {text}" for name, text in programs.items())


def usual_layouts() -> list[str]:
    """The layouts that are saved by default."""
    return _each_once(lambda one: one.usual_layouts)


def attention_layers() -> list[str]:
    """Endings of the attention layers' names."""
    return _each_once(lambda one: one.attention)


def feed_forward_layers() -> list[str]:
    """Endings of the feed-forward layers' names."""
    return _each_once(lambda one: one.feed_forward)


def text_attention_layers() -> list[str]:
    """Endings of the names of the attention layers that process the text's tokens one by one."""
    return _each_once(lambda one: one.text_attention)


def text_feed_forward_layers() -> list[str]:
    """Endings of the names of the feed-forward layers that process the text's tokens one by one."""
    return _each_once(lambda one: one.text_feed_forward)


def text_layers() -> list[str]:
    """Endings of the names of all layers that process the text's tokens one by one."""
    return text_attention_layers() + text_feed_forward_layers()


def _each_once(names: Callable[[FamilySettings], Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for one in FAMILY_SETTINGS.values() for name in names(one)))


def own_part(group: object, own: type[Own]) -> Own:
    """A group of settings, as the family that added some of them reads it.

    Raises:
        TypeError: they were read without the families' settings.
    """
    if not isinstance(group, own):
        raise TypeError(f"the settings lack {own.__name__}")
    return group
