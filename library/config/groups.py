"""The groups of settings by section, with the settings of every registered method and family of models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import library.models  # noqa: F401  # its families add settings
from library.config.dataset import Source
from library.config.family_settings import about_layouts, groups_in, layout_names
from library.config.fields import name_of, names_of
from library.config.method_settings import MethodSettings
from library.config.settings import SECTIONS
from library.methods import Method, in_order


def groups() -> dict[str, type]:
    """Settings groups by section, in the order in which they are written."""
    joined = {section: _joined(group, groups_in(section)) for section, group in SECTIONS.items()}
    layouts = layout_names(), about_layouts()
    return {**joined, "method": _method_group(tuple(in_order())), "saving": _saving_group(joined["saving"], *layouts)}


@cache
def _joined(group: type, own: tuple[type, ...], *again: tuple[str, Any, Any]) -> type:
    """A group of settings, with those that families or methods add.

    Args:
        again: settings of the group to redefine: name, type and field.

    Raises:
        ValueError: the group already has such a setting.
    """
    if not own and not again:
        return group
    for one in own:
        if taken := names_of(group) & names_of(one):
            raise ValueError(f"{one.__name__}: the setting {min(taken)} already exists")
    return dataclasses.make_dataclass(
        group.__name__,
        again,
        bases=(*reversed(own), group),  # a dataclass lists its last base's fields first
        namespace={"__doc__": group.__doc__},
        frozen=True,
        kw_only=True,
    )


@cache
def _method_group(methods: tuple[Method, ...]) -> type:
    """[method]: the setting that chooses a method, and the settings of each method."""
    names = Literal[tuple(one.name for one in methods)]  # type: ignore[valid-type]  # names that exist only at run time
    vectored = ", ".join(one.name for one in methods if one.may_have_vectors)
    vectors = _again(MethodSettings, "with_embeddings", lambda about: f"{vectored}: {about}")
    own = tuple(one.own for one in methods if one.own is not None)
    return _joined(
        MethodSettings,
        own,
        ("method", names, _again(MethodSettings, "method")),
        ("with_embeddings", bool, vectors),
    )


@cache
def _saving_group(group: type, layouts: tuple[str, ...], about: str) -> type:
    """[saving]: with the layouts that families have for LoRA files."""
    names = list[Literal[layouts]]  # type: ignore[valid-type]  # names that exist only at run time
    return _joined(
        group, (), ("save_formats", names, _again(group, "save_formats", lambda help: help.format(layouts=about)))
    )


def _again(group: type, name: str, say: Callable[[str], str] = str) -> Any:
    """A setting of a group with a different sentence."""
    field = {field.name: field for field in dataclasses.fields(group)}[name]
    about = {**field.metadata, "help": say(field.metadata["help"])}
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory, metadata=about)
    return dataclasses.field(default=field.default, metadata=about)


def setting_names() -> dict[str, str]:
    """Every setting's name with its section."""
    return {name_of(field): section for section, group in groups().items() for field in dataclasses.fields(group)}


def paths() -> frozenset[str]:
    """Settings in which ~ and environment variables are expanded."""
    return frozenset(
        name_of(field)
        for group in (*groups().values(), Source)
        for field in dataclasses.fields(group)
        if field.metadata["holds"] == "path"
    )
