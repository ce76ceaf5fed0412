"""The modules of the library, and what they import."""

import ast
from functools import cache
from pathlib import Path

from tests.helpers.places import ROOT

FILES = sorted((ROOT / "library").rglob("*.py"))
WINDOW = sorted((ROOT / "gui").rglob("*.py"))
"""The window imports from the whole library; the library imports nothing from it."""


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "library").parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}
WITH_WINDOW = {module_of(path): path for path in [*FILES, *WINDOW]}


@cache
def names_in_imports(path: Path) -> frozenset[str]:
    """Every dotted name that a file imports anywhere, even if only for a type."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return frozenset(names)


def imported_by(path: Path, modules: dict[str, Path] = MODULES) -> set[str]:
    """The modules among these that a file imports."""
    found = names_in_imports(path) & set(modules)
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)} - {module_of(path)}
