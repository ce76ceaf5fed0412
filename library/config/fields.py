"""How to declare a setting: once, with type, default, range and one sentence, for files and command line."""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from library.config.file_names import why_not_a_name, why_not_a_path, why_not_an_ending
from library.errors import ConfigError, PureCCError
from library.files.text_file import IN_NO_FILE

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Group = TypeVar("Group", bound="DataclassInstance")
Holds = Literal["path", "file name", "ending"]
"""What a text means to a file system: a path, or the start or ending of a file's name."""
WHY_NOT = {
    "path": (
        why_not_a_path,
        "Give a file or a folder. In double quotes, a backslash starts a control character: use 'single quotes' or /.",
    ),
    "file name": (why_not_a_name, "Choose a name that works as a file name on Windows, Linux and macOS."),
    "ending": (why_not_an_ending, "For example .txt."),
}
BEYOND = 1 << 63
"""Limit of all numbers: the libraries use 64 bits for seeds and counts."""


def setting(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    name: str | None = None,
    shapes_training: bool = True,
    holds: Holds | None = None,
) -> Any:
    """A dataclass field that is a setting.

    Args:
        default: its value if it is not set, or a function that makes it; without one, the setting is required.
        help: one sentence on what it does.
        at_least, above, at_most: the range of a number.
        name: its name in files, if Python can't use that name.
        shapes_training: whether another value gives another LoRA; a resumed run must keep such settings.
        holds: what a text, or each one in a list, means to a file system, if anything.
    """
    about = {
        "help": help,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "name": name,
        "shapes_training": shapes_training,
        "holds": holds,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=about)
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=about)
    return dataclasses.field(default=default, metadata=about)


def name_of(field: dataclasses.Field[Any]) -> str:
    """The name of a setting as users write it."""
    return field.metadata["name"] or field.name


def names_of(group: type) -> frozenset[str]:
    """The names of a group's settings, as users write them."""
    return frozenset(name_of(field) for field in dataclasses.fields(group))


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Its default; `dataclasses.MISSING` if it is required."""
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


@cache
def hints_of(group: type) -> Mapping[str, Any]:
    """The type of every setting of a group, by its name in Python."""
    return types.MappingProxyType(typing.get_type_hints(group))


def describe(hint: Any) -> str:
    """A type as text, such as "a number" or "one of \"a\", \"b\""."""
    if typing.get_origin(hint) is Literal:
        choices = [f'"{choice}"' for choice in typing.get_args(hint)]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if typing.get_origin(hint) is list:
        return f"a list; each item is {describe(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(describe(part) for part in typing.get_args(hint) if part is not type(None))
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a string in quotes"}
    return words[hint]


def placeholder(hint: Any) -> str:
    """The placeholder for a value of a type in the help, such as "N" or "{a,b}"."""
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return choices[0] if len(choices) == 1 else f"{{{','.join(choices)}}}"
    if typing.get_origin(hint) is list:
        return placeholder(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return "|".join(placeholder(part) for part in typing.get_args(hint) if part is not type(None))
    return {bool: "", int: "N", float: "NUMBER", str: "TEXT"}[hint]


def conforms(value: Any, hint: Any) -> bool:
    """Whether `value` has the type; a whole number counts as a number, true and false do not."""
    if typing.get_origin(hint) is Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if typing.get_origin(hint) is list:
        return isinstance(value, list) and all(conforms(part, typing.get_args(hint)[0]) for part in value)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(conforms(value, part) for part in typing.get_args(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def from_command_line(text: str, hint: Any) -> Any:
    """The value of a word on the command line, unchecked: "1e-4" is a number, "adaptive" a text."""
    if conforms(text, hint):
        return text
    if text.lower().lstrip("+-") in ("inf", "nan"):
        return float(text)
    value = literal(text)
    return list(value) if isinstance(value, tuple) else value


def literal(text: str) -> Any:
    """The number, list or other literal that a text holds in Python's notation; otherwise the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text


def check_sound(value: Any, name: str, where: str) -> None:
    """Checks for values that no setting can use, inside lists and tables, too.

    Raises:
        ConfigError: a number is not finite or has more than 64 bits, or no file can hold a text.
    """
    inner = [value]
    while inner:
        one = inner.pop()
        if isinstance(one, dict):
            inner += [*one, *one.values()]
        elif isinstance(one, (list, tuple)):
            inner += one
        elif isinstance(one, float | int) and not abs(one) < BEYOND:
            shown = one if isinstance(one, float) else "too large"
            raise ConfigError(f"{where}: {name} is {shown}; numbers must be finite and smaller than 9.2e18.")
        elif isinstance(one, str) and IN_NO_FILE.search(one):
            raise ConfigError(f"{where}: {name} is {one!r}; it contains a character that no file can hold.")


def check(value: Any, field: dataclasses.Field[Any], hint: Any, where: str, called: str | None = None) -> Any:
    """Returns the value if this setting can have it.

    Args:
        where: file and line, for the error.
        called: its name there, if not the setting's own.

    Raises:
        ConfigError: the type is wrong, it is out of range, or it must be a path or file name but isn't.
    """
    name, about = called or name_of(field), field.metadata
    check_sound(value, name, where)
    if not conforms(value, hint):
        raise ConfigError(f"{where}: {name} is {value!r}; it must be {describe(hint)}.", about["help"])
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        limits = [
            ("at_least", lambda limit: value >= limit, "at least"),
            ("above", lambda limit: value > limit, "above"),
            ("at_most", lambda limit: value <= limit, "at most"),
        ]
        for key, holds, words in limits:
            if about[key] is not None and not holds(about[key]):
                raise ConfigError(f"{where}: {name} is {value}; it must be {words} {about[key]}.", about["help"])
        if hint is float:
            return float(value)
    for text in (value if isinstance(value, list) else [value]) if about["holds"] else ():
        why_not, remedy = WHY_NOT[about["holds"]]
        why = why_not(text) if isinstance(text, str) else None
        if why:
            raise ConfigError(f"{where}: {name} is {text!r}; {why}.", remedy)
    return value


def build(
    group: type[Group],
    values: dict[str, Any],
    where: dict[str, str],
    problems: list[PureCCError],
    table: str | None = None,
) -> Group | None:
    """Builds a settings group from given values, checked one by one.

    Args:
        values: by the names that users write. Settings of other groups are ignored.
        where: file and line of each value.
        problems: gets every mistake.
        table: where the group is, if it has its own table.

    Returns:
        The group, or None if it had a mistake.
    """
    known = {name_of(field): field for field in dataclasses.fields(group)}
    hints, chosen, before = hints_of(group), {}, len(problems)
    for name, field in known.items():
        if name in values:
            try:
                chosen[field.name] = check(values[name], field, hints[field.name], where.get(name, "settings"))
            except ConfigError as error:
                problems.append(error)
        elif default_of(field) is dataclasses.MISSING:
            lacks = f"The setting {name} is missing." if table is None else f"{table}: {name} is missing."
            problems.append(ConfigError(lacks, field.metadata["help"]))
    if len(problems) > before:
        return None
    try:
        return group(**chosen)
    except ConfigError as error:
        problems.append(error if table is None else ConfigError(f"{table}: {error.what}", error.remedy))
        return None
