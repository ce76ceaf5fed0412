"""The house keeps its floors, and speaks only of itself."""

import ast
from pathlib import Path

import pytest

from tests.helpers.places import ROOT

FLOORS = [
    ["errors", "roofline", "tensor_storage", "terminal"],
    ["atomic", "chance", "environment", "fingerprint", "per_pass", "flow", "live_memory", "picture_files", "text_file"],
    [
        "config",
        "checkpoint",
        "folder_lock",
        "lambda_star_loss",
        "concept_error",
        "hierarchical_embedding_injector",
        "measures",
    ],
    ["prompts", "placeholders", "objectives", "adapters", "loaders", "models", "optim"],
    ["dual_branch_scheduler", "data", "imports", "sample_prompts", "sampling", "report", "convert", "scorers"],
    ["methods"],
    ["training"],
    ["evaluation"],
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted((ROOT / "library").rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "library").parts[0].removesuffix(".py")


def rooms_imported_by(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "library":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("library.")}
    return names & set(LEVEL)


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path):
    room = room_of(path)
    for other in rooms_imported_by(path) - {room}:
        assert LEVEL[other] < LEVEL[room], f"{path.relative_to(ROOT)} may not import library.{other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
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


def test_nothing_is_pickled():
    for path in FILES:
        text = path.read_text()
        for word in ("import pickle", "torch.load(", "torch.save("):
            assert word not in text, f"{path.name}: {word}"
