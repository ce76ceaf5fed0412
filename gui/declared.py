"""All settings of the trainer as a page shows them, built from their declarations."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gui.recipes import OWN
from library.config.fields import check, default_of, describe, from_command_line, hints_of, name_of
from library.config.files import to_toml
from library.config.groups import groups, setting_names
from library.config.synonyms import meant
from library.errors import ConfigError

HIDDEN = OWN | {"device"}
"""Settings that the page does not offer, since the window sets them."""


@dataclass(frozen=True)
class Declared:
    """A setting.

    Args:
        kind: "choice", "switch" or "text".
        choices: of a choice.
        value: the current value as text; "" if it is unset.
        usual: the value without the user's change, as text.
    """

    name: str
    section: str
    help: str
    what: str
    kind: str
    choices: tuple[str, ...]
    value: str
    usual: str
    changed: bool


def as_text(value: Any) -> str:
    """A value as a field of a form shows it."""
    if value is None or value is dataclasses.MISSING:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def all_settings(usual: Mapping[str, Any], changed: Mapping[str, Any]) -> list[Declared]:
    """Every setting, the user's changes first.

    Args:
        usual: what the project sets itself, by name.
        changed: what the user has set, by name.
    """
    found = []
    for section, group in groups().items():
        hints = hints_of(group)
        for field in dataclasses.fields(group):
            name, hint = name_of(field), hints[field.name]
            if name in HIDDEN:
                continue
            before = usual.get(name, default_of(field))
            kind, choices = _kind_of(hint)
            found.append(
                Declared(
                    name=name,
                    section=section,
                    help=field.metadata["help"],
                    what=describe(hint),
                    kind=kind,
                    choices=choices,
                    value=as_text(changed.get(name, before)),
                    usual=as_text(before),
                    changed=name in changed,
                )
            )
    return sorted(found, key=lambda one: not one.changed)


def _kind_of(hint: Any) -> tuple[str, tuple[str, ...]]:
    parts = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if hint is bool:
        return "switch", ()
    if typing.get_origin(parts[0]) is Literal and all(one is type(None) for one in parts[1:]):
        return "choice", typing.get_args(parts[0])
    return "text", ()


def with_value(changed: Mapping[str, Any], name: str, text: str) -> dict[str, Any]:
    """The user's changes with one more setting, as a form sends it; "" undoes the change.

    Raises:
        ConfigError: no such setting, or an invalid value.
    """
    rest = {key: value for key, value in changed.items() if key != name}
    return rest if text.strip() == "" else rest | checked({name: text.strip()}, as_words=True)


def from_toml(text: str) -> dict[str, Any]:
    """The user's changes, from TOML with or without sections.

    Raises:
        ConfigError: it is not TOML, or see `with_value`.
    """
    try:
        tables = tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"This is not valid TOML: {error}.", 'Write lines such as network_dim = 8, and put text in "quotes".'
        ) from error
    values: dict[str, Any] = {}
    for key, value in tables.items():
        values |= value if isinstance(value, dict) else {key: value}
    return checked(values)


def checked(values: Mapping[str, Any], as_words: bool = False) -> dict[str, Any]:
    """Checked values.

    Args:
        as_words: the values are text, as on the command line.

    Raises:
        ConfigError: see `with_value`.
    """
    known = {name_of(field): (group, field) for group in groups().values() for field in dataclasses.fields(group)}
    good = {}
    for name, value in values.items():
        if name not in known or name in HIDDEN:
            names = known.keys() - HIDDEN
            ours = f"The window sets {name} itself." if name in HIDDEN else f'"{name[:80]}" is not a setting.'
            raise ConfigError(ours, "Remove it." if name in HIDDEN else meant(name, names))
        group, field = known[name]
        hint = hints_of(group)[field.name]
        good[name] = check(_value(value, hint) if as_words else value, field, hint, "Settings")
    return good


def _value(text: str, hint: Any) -> Any:
    if hint is bool and text in ("true", "false"):
        return text == "true"
    return from_command_line(text, hint)


def as_toml(changed: Mapping[str, Any]) -> str:
    """The user's changes as TOML, by section."""
    sections, tables = setting_names(), dict[str, dict[str, Any]]()
    for name, value in changed.items():
        tables.setdefault(sections.get(name, "data"), {})[name] = value
    return to_toml(tables)
