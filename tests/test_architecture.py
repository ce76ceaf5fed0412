"""The house keeps its floors, and speaks only of itself."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers.places import ROOT

READING = [
    "config.groups",
    "config.methods",
    "config.kohya.training",
    "config.files",
    "config.dataset_file",
    "config.in_force",
    "config.reference",
]
"""Files of `config` that know every method, whose settings they read."""
FLOORS = [
    ["errors", "terminal", "chance", "flow", "per_pass", "roofline"],
    ["environment", "files", "concept_error", "lambda_star_loss", "hierarchical_embedding_injector"],
    ["config", "adapters"],
    ["prompts", "placeholders", "objectives", "penalties", "optim", "models"],
    ["dual_branch_scheduler", "methods"],
    READING,
    ["report", "importers"],
    ["data"],
    ["parts"],
    ["drawing", "saving"],
    ["prepare"],
    ["preflight", "convert"],
    ["training"],
    ["evaluation"],
]
"""Rooms of `library/`, and files that stand apart from theirs; each imports from floors below its own only."""
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = [room for room in LEVEL if "." not in room]
FILES = sorted((ROOT / "library").rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "library").parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imported_by(path: Path) -> set[str]:
    """The modules of the library that a file imports anywhere, if only for a type."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    found = names & set(MODULES)
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)} - {module_of(path)}


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


def test_the_map_of_the_house_shows_every_room():
    shown = (ROOT / "docs" / "dev" / "architecture.md").read_text()
    tree = shown.partition("```\n")[2].partition("```")[0]
    for room in ROOMS:
        assert f" {room}/" in tree or f" {room}.py" in tree, room


def test_no_file_imports_itself_by_way_of_others():
    ways = {name: imported_by(path) for name, path in MODULES.items()}
    try:
        list(TopologicalSorter(ways).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {' <- '.join(error.args[1])}")


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


CODE = sorted(path for folder in ("tests", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
TESTED_ELSEWHERE: dict[str, str] = {
    "library": "only by what uses it",
    "library.adapters.hashes": "tests/files/test_tensor_storage.py",
    "library.adapters.layouts.diffusers": "only by what uses it",
    "library.adapters.layouts.layer_names": "only by what uses it",
    "library.adapters.layouts.onetrainer": "only by what uses it",
    "library.adapters.layouts.text_encoders": "only by what uses it",
    "library.adapters.metadata": "only by what uses it",
    "library.chance": "tests/prepare/test_context.py",
    "library.config.context_settings": "only by what uses it",
    "library.config.in_force": "tests/parts/test_base_weights.py",
    "library.config.kohya.elsewhere": "only by what uses it",
    "library.config.kohya.network": "only by what uses it",
    "library.config.loss_settings": "only by what uses it",
    "library.config.metadata_settings": "only by what uses it",
    "library.config.method_settings": "only by what uses it",
    "library.config.model_settings": "tests/drawing/test_sampling.py",
    "library.config.network_settings": "tests/adapters/test_adapters.py",
    "library.config.optimizers": "tests/test_optim.py",
    "library.config.sample_settings": "only by what uses it",
    "library.config.saving_settings": "only by what uses it",
    "library.config.toml_text": "only by what uses it",
    "library.convert.bake": "only by what uses it",
    "library.convert.command": "tests/adapters/test_foreign_loras.py",
    "library.convert.merge": "only by what uses it",
    "library.data.same_pictures": "only by what uses it",
    "library.data.texts": "tests/comfyui/test_tokens.py",
    "library.drawing.generation": "only by what uses it",
    "library.environment": "only by what uses it",
    "library.evaluation.audit_files": "only by what uses it",
    "library.evaluation.compare_files": "only by what uses it",
    "library.evaluation.picture_measures": "only by what uses it",
    "library.evaluation.results": "only by what uses it",
    "library.evaluation.scorers.download": "only by what uses it",
    "library.evaluation.scorers.folders": "tests/files/test_tensor_storage.py",
    "library.evaluation.summary": "only by what uses it",
    "library.evaluation.weights": "only by what uses it",
    "library.files.fingerprint": "tests/test_strange_input.py",
    "library.files.folder_lock": "tests/training/test_faults.py",
    "library.files.picture_files": "tests/data/test_damaged_pictures.py",
    "library.files.text_file": "tests/test_strange_input.py",
    "library.importers.ai_toolkit": "only by what uses it",
    "library.importers.kohya_gui": "only by what uses it",
    "library.importers.onetrainer": "only by what uses it",
    "library.importers.reading": "only by what uses it",
    "library.methods": "only by what uses it",
    "library.methods.aggregation": "tests/convert/test_fusion.py",
    "library.methods.cifc": "only by what uses it",
    "library.methods.dop": "only by what uses it",
    "library.methods.dreambooth": "only by what uses it",
    "library.methods.ewc": "only by what uses it",
    "library.methods.fusion": "tests/convert/test_fusion.py",
    "library.methods.l2_anchor": "only by what uses it",
    "library.methods.lora": "only by what uses it",
    "library.methods.method": "only by what uses it",
    "library.methods.mix_of_show": "only by what uses it",
    "library.methods.prior_preservation": "only by what uses it",
    "library.methods.purecc": "only by what uses it",
    "library.methods.textual_inversion": "only by what uses it",
    "library.models.loading.hub": "only by what uses it",
    "library.models.memory.counting": "only by what uses it",
    "library.models.memory.residence": "tests/helpers/comfy_checkout.py",
    "library.models.memory.swap": "only by what uses it",
    "library.models.sd3.checkpoint_layouts": "only by what uses it",
    "library.models.sd3.learned_words": "only by what uses it",
    "library.parts.base_weights": "only by what uses it",
    "library.parts.branching": "tests/config/test_kohya_files.py",
    "library.parts.context": "tests/prepare/test_context.py",
    "library.parts.network_weights": "only by what uses it",
    "library.parts.saved_vectors": "only by what uses it",
    "library.prepare.class_states": "tests/test_hierarchical_embedding_injector.py",
    "library.prepare.fisher": "only by what uses it",
    "library.prepare.replay": "only by what uses it",
    "library.report.plot": "tests/training/test_faults.py",
    "library.report.progress": "tests/test_terminal.py",
    "library.roofline": "tests/preflight/test_times.py",
    "library.saving.keeping": "only by what uses it",
    "library.saving.outputs": "tests/files/test_tensor_storage.py",
    "library.training.assembly": "only by what uses it",
    "library.training.average": "only by what uses it",
    "library.training.finished": "only by what uses it",
    "library.training.fused": "tests/methods/test_full_fine_tuning.py",
    "library.training.galleries": "only by what uses it",
    "library.training.not_a_number": "only by what uses it",
    "library.training.observer": "tests/conftest.py",
    "library.training.out_of_memory": "only by what uses it",
    "library.training.pace": "tests/preflight/test_windows.py",
    "library.training.resuming": "tests/parts/test_base_weights.py",
    "library.training.scenes": "only by what uses it",
    "library.training.sections": "tests/report/test_report.py",
    "library.training.unseen": "only by what uses it",
    "library.training.validation": "only by what uses it",
}
"""Modules that no test of their own room names, each with where it is tested; this list only gets shorter."""


def named_by(path: Path) -> set[str]:
    """Modules of the library that a test imports or names in a string, as `monkeypatch.setattr` takes it."""
    named = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("library."):
            parts = node.value.split(".")
            named |= {".".join(parts[:end]) for end in range(2, len(parts) + 1)}
    return imported_by(path) | named & set(MODULES)


def tests_of(room: str) -> list[Path]:
    folder = ROOT / "tests" / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else sorted((ROOT / "tests").glob("test_*.py"))


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_imports_a_test_file(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            assert parts[0] != "tests" or not any(one.startswith("test_") for one in parts), (
                f"{path.relative_to(ROOT)}: {name}; what tests share lies in tests/helpers or a conftest.py"
            )


def test_every_module_is_named_by_a_test_of_its_room():
    rooms = {name: room_of(path) for name, path in MODULES.items()}
    named = {room: set().union(*map(named_by, tests_of(room))) for room in set(rooms.values())}
    with_code = {name for name, path in MODULES.items() if len(ast.parse(path.read_text()).body) > 1}
    assert {name for name in with_code if name not in named[rooms[name]]} == set(TESTED_ELSEWHERE) & set(MODULES)
