"""The rules for tests: no test imports another, none uses private names, each room has its own."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.modules import MODULES, imported_by, room_of
from tests.helpers.places import ROOT

CODE = sorted(path for folder in ("tests", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
OURS = re.compile(r"(library|comfyui_purecc|tools|benchmarks|purecc_[a-z]+)(\.\w+)*\._[a-z]\w*|_[a-z]\w*")
"""Something private of the project in a string, as `monkeypatch.setattr` takes it: dotted, or the name alone."""
PATCHES = ("setattr", "delattr", "getattr", "object")
"""Calls whose strings name what they reach for."""
OF_OTHERS = {"_exit", "_constants", "_parser", "_compiled_call_impl", "_cdata"}
"""Private names of Python and PyTorch that have no public door."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_no_file_imports_a_test_file(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            assert parts[0] != "tests" or not any(one.startswith("test_") or one == "conftest" for one in parts), (
                f"{name}; what tests share lies in tests/helpers or is a fixture of a conftest.py"
            )


def private_names(tree: ast.Module) -> set[str]:
    """The private names of others that a test uses: attributes, imports, and strings for `setattr` and the like.

    A test's own attributes, those of `self` and `cls`, are allowed.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found |= set() if own else {node.attr}
        if isinstance(node, ast.ImportFrom):
            found |= {part for alias in node.names for part in (*(node.module or "").split("."), alias.name)}
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Attribute, ast.Name)):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            strings = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            if called in PATCHES:
                found |= {one.rpartition(".")[2] for one in strings if OURS.fullmatch(one)}
    return {name for name in found if re.fullmatch(r"_[a-zA-Z]\w*", name)}


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_no_test_reaches_for_what_is_private(path):
    assert private_names(ast.parse(path.read_text())) <= OF_OTHERS, "test by the public door, or make it public"


@cache
def named_by(path: Path) -> set[str]:
    """Modules of the library that a test imports, or names in a string for `monkeypatch.setattr`."""
    named = set(imported_by(path))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("library."):
            parts = node.value.split(".")
            named |= {".".join(parts[:end]) for end in range(2, len(parts) + 1)}
    return named & set(MODULES)


def brought_along(name: str) -> set[str]:
    """A module's imports; the methods' room imports each of its files, which register themselves."""
    files = {one for one in MODULES if one.startswith("library.methods.")}
    return imported_by(MODULES[name]) | (files if name == "library.methods.method" else set())


@pytest.mark.parametrize("room", sorted({room_of(path) for path in MODULES.values()} - {"__init__"}))
def test_every_module_is_reached_by_a_test_of_its_room(room):
    """Named by a test, or imported by a module of the room that is. Any test may name a room of one file."""
    folder = ROOT / "library" / room
    tests = sorted((ROOT / "tests" / room).rglob("*.py")) if folder.is_dir() else TESTS
    mine = {name for name, path in MODULES.items() if room_of(path) == room}
    ahead, reached = set().union(*map(named_by, tests)) & mine, set()
    while ahead:
        reached.add(name := ahead.pop())
        ahead |= (brought_along(name) & mine) - reached
    with_code = {name for name in mine if len(ast.parse(MODULES[name].read_text()).body) > 1}
    assert with_code - reached - {f"library.{room}"} == set()
