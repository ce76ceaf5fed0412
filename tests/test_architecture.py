"""The rules of the architecture: imports go one way, and the project only refers to itself."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers.modules import FILES, MODULES, WINDOW, WITH_WINDOW, imported_by, module_of, room_of
from tests.helpers.places import ROOT

READING = [
    "config.groups",
    "config.method_rules",
    "config.kohya.training",
    "config.files",
    "config.dataset_file",
    "config.in_force",
    "config.reference",
]
"""Files of `config` that know every method, whose settings they read."""
FLOORS = [
    ["errors", "terminal", "chance", "flow", "per_pass", "transfer", "predictions"],
    ["environment", "files", "turns", "lambda_star_loss", "hierarchical_embedding_injector"],
    ["config", "adapters"],
    ["prompts", "objectives", "optim", "models"],
    ["dual_branch_scheduler", "methods"],
    READING,
    ["report", "importers"],
    ["data"],
    ["parts"],
    ["drawing", "saving"],
    ["prepare"],
    ["preflight", "convert"],
    ["training", "captions"],
    ["evaluation"],
]
"""Rooms of `library/`, and files that stand apart from theirs; each imports from floors below its own only."""
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = [room for room in LEVEL if "." not in room]


def level_of(path: Path) -> int:
    name = module_of(path).removeprefix("library.")
    return LEVEL[name] if name in READING else LEVEL[room_of(path)]


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(ROOMS)
    assert {f"library.{name}" for name in READING} <= set(MODULES)


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) in LEVEL], ids=module_of)
def test_imports_only_go_down(path):
    for name in imported_by(path):
        other = MODULES[name]
        within = room_of(other) == room_of(path) and level_of(other) == level_of(path)
        if room_of(other) in LEVEL and not within:
            assert level_of(other) < level_of(path), f"{path.relative_to(ROOT)} may not import {name}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_library_knows_nothing_of_the_window(path):
    assert not {name for name in imported_by(path, WITH_WINDOW) if name.startswith("gui")}


def test_the_map_of_the_house_shows_every_room():
    shown = (ROOT / "docs" / "dev" / "architecture.md").read_text()
    tree = shown.partition("```\n")[2].partition("```")[0]
    assert "\ngui/" in tree
    for room in ROOMS:
        assert f" {room}/" in tree or f" {room}.py" in tree, room


def test_no_file_imports_itself_by_way_of_others():
    ways = {name: imported_by(path, WITH_WINDOW) for name, path in WITH_WINDOW.items()}
    try:
        list(TopologicalSorter(ways).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("path", [*FILES, *WINDOW], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_can_be_read_without_scrolling_forever(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is for"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno <= 60, node.name
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_no_two_files_differ_by_a_plural_alone():
    names = {path.stem: path for path in FILES}
    assert not [(names[name], names[f"{name}s"]) for name in names if f"{name}s" in names]


def test_nothing_is_pickled():
    for path in [*FILES, *WINDOW]:
        text = path.read_text()
        for word in ("import pickle", "torch.load(", "torch.save("):
            assert word not in text, f"{path.name}: {word}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_what_the_type_checker_is_not_to_see_is_named_with_its_reason(path):
    for line in path.read_text().splitlines():
        if "type: ignore" in line or "mypy:" in line:
            assert re.search(r"# type: ignore\[[a-z-]+\]  # \w", line), line.strip()
