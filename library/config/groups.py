"""The groups of settings by section, [method] with what every registered method brings."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, Literal

from library.config.dataset import Source
from library.config.fields import name_of
from library.config.method_settings import MethodSettings
from library.config.settings import SECTIONS
from library.methods import Method, in_order

OWN_FIELDS = {field.name: field for field in dataclasses.fields(MethodSettings)}


def groups() -> dict[str, type]:
    """Settings groups by section, in the order in which they are written."""
    return {**SECTIONS, "method": _method_group(tuple(in_order()))}


@cache
def _method_group(methods: tuple[Method, ...]) -> type[MethodSettings]:
    """[method]: the setting that chooses one of the methods, and what each of them has of its own."""
    names = Literal[tuple(one.name for one in methods)]  # type: ignore[valid-type]  # names that are known only now
    vectored = ", ".join(one.name for one in methods if one.may_have_vectors)
    about = OWN_FIELDS["with_embeddings"].metadata["help"]
    own = [one.own for one in methods if one.own is not None]
    return dataclasses.make_dataclass(
        MethodSettings.__name__,
        [
            ("method", names, _again("method")),
            ("with_embeddings", bool, _again("with_embeddings", help=f"{vectored}: {about}")),
        ],
        bases=(*reversed(own), MethodSettings),  # a dataclass lists the fields of its last base first
        namespace={"__doc__": MethodSettings.__doc__},
        frozen=True,
        kw_only=True,
    )


def _again(name: str, **about: Any) -> Any:
    """A setting of every method, said otherwise."""
    field = OWN_FIELDS[name]
    return dataclasses.field(default=field.default, metadata={**field.metadata, **about})


def setting_names() -> dict[str, str]:
    """Every setting's name with the section it is written in."""
    return {name_of(field): section for section, group in groups().items() for field in dataclasses.fields(group)}


def paths() -> frozenset[str]:
    """Settings in which ~ and environment variables are expanded."""
    return frozenset(
        name_of(field)
        for group in (*groups().values(), Source)
        for field in dataclasses.fields(group)
        if field.metadata["holds"] == "path"
    )
