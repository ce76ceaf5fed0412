"""Safetensors files: every written tensor owns its data, and reading leaves no file mapped."""

import ast
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import library.files.atomic
from library.adapters.files import (
    add_thumbnail,
    load_changes,
    load_concepts,
    read_lora,
    read_safetensors,
    save_lora,
    write_lora,
)
from library.adapters.metadata import hashes_of
from library.adapters.reading import understood
from library.adapters.uis.apply import read_file
from library.convert.resize import resized
from library.evaluation.scorers.scorer_files import read_weights
from library.files.atomic import write_tensors
from library.files.cache import Cache
from library.files.checkpoint import Position, SavedState, load_state, write_state
from library.files.tensor_storage import owned, read_tensors
from library.models.sd3.layouts.known import LAYOUTS
from library.training.run import Run
from tests.helpers.loras import layer
from tests.helpers.mapped_files import is_mapped
from tests.helpers.places import ROOT
from tools.pocket import pictures as pocket_pictures
from tools.pocket.pen import SIDE

CODE = [
    path
    for folder in ("library", "comfyui_purecc", "tools", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
] + sorted(ROOT.glob("*.py"))
WRITES = {"save", "save_file", "save_model", "serialize", "serialize_file"}
MAPS = {"safe_open", "load_file", "load_model"}
READ_ONLY = {
    "library/files/tensor_storage.py": "copies what it reads",
    "library/models/loading/tensor_file.py": "checkpoints, too large to be copied; no run writes over one",
    "library/convert/bake.py": "closed again before anything is read",
    "library/evaluation/scorers/scorer_files.py": "shapes alone",
    "comfyui_purecc/concept_file.py": "copies what it reads",
    "comfyui_purecc/lora_file.py": "copies what it reads",
}
"""Files of the product that may open a file mapped, each with the reason."""


def imported_from_safetensors(path: Path) -> set[str]:
    """Names that a module takes from safetensors; "*" where it takes the whole package and could call anything."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "safetensors":
            found |= {"*" if alias.name == "torch" else alias.name for alias in node.names}
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "safetensors" for alias in node.names):
            found.add("*")
    return found


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_module_alone_writes_safetensors(path):
    name, taken = str(path.relative_to(ROOT)), imported_from_safetensors(path)
    if name == "library/files/tensor_storage.py":
        assert {"save", "save_file"} <= taken
        return
    assert not taken & {*WRITES, "*"}, f"{name} writes safetensors past library.files.tensor_storage"
    if name.startswith(("library/", "comfyui_purecc/")):
        assert name in READ_ONLY or not taken & MAPS, f"{name} may leave a file mapped"


WHOLE = torch.arange(24.0).reshape(6, 4)
VIEWS = {
    "thirds": dict(zip("qkv", WHOLE.chunk(3), strict=True)),
    "columns": dict(zip("ab", WHOLE.chunk(2, dim=1), strict=True)),
    "one tensor under two names": {"a": WHOLE, "b": WHOLE},
    "a view and its whole": {"a": WHOLE, "b": WHOLE[2:]},
    "a transpose": {"a": WHOLE.T, "b": WHOLE},
    "expanded": {"a": torch.ones(1, 4).expand(6, 4)},
    "with a gradient": {"a": torch.ones(3, requires_grad=True)},
    "empty": {"a": WHOLE[:0], "b": WHOLE[:0]},
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_of_any_kind_are_written_with_their_own_numbers(tmp_path, name):
    tensors = VIEWS[name]
    write_tensors(tmp_path / "x.safetensors", tensors, {"said": "so"})
    back, metadata = read_tensors(tmp_path / "x.safetensors")
    assert metadata == {"said": "so"} and set(back) == set(tensors)
    assert all(torch.equal(back[key], tensors[key].detach()) for key in tensors)
    write_state(tmp_path / "state", SavedState(Position({"student": 1}), {}, dict(tensors)))
    tree = load_state(tmp_path / "state", {}).tree
    assert all(torch.equal(tree[key], tensors[key].detach()) for key in tensors)
    cache = Cache(tmp_path / "cache")
    cache.put("kind", {"a": 1}, dict(tensors))
    found = cache.find("kind", {"a": 1})
    assert all(torch.equal(found[key], tensors[key].detach()) for key in tensors)
    assert hashes_of(tensors, {}) == hashes_of({key: one.detach().clone() for key, one in tensors.items()}, {})


def test_what_owns_its_numbers_is_not_copied():
    tensor = torch.ones(3)
    assert owned({"a": tensor})["a"].data_ptr() == tensor.data_ptr()


def of_sd_scripts(down: torch.Tensor, up: torch.Tensor, alpha: float) -> dict[str, torch.Tensor]:
    """One down for q, k and v, float32, as sd-scripts writes by default."""
    base = "lora_unet_joint_blocks_0_context_block_attn_qkv"
    pair = {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up}
    return {**pair, f"{base}.alpha": torch.tensor(alpha)}


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_fused_layer_of_sd_scripts_is_written_in_every_layout(tmp_path, layout, rank):
    one = layer(0, 96, 32, rank=4, alpha=2.0)
    layers = understood(of_sd_scripts(one.down, one.up, 2.0), {}, "file").layers
    if rank:
        layers, _ = resized(layers, rank)
    meant = torch.cat([layers[f"transformer_blocks.0.attn.add_{kind}_proj"].delta() for kind in "qkv"])
    if not rank:
        torch.testing.assert_close(meant, 0.5 * one.up @ one.down)
    write_lora(tmp_path / "x.safetensors", layers, layout, torch.float32, {})
    back = read_lora(tmp_path / "x.safetensors").layers
    found = torch.cat([back[f"transformer_blocks.0.attn.add_{kind}_proj"].delta() for kind in "qkv"])
    torch.testing.assert_close(found, meant, rtol=1e-5, atol=1e-5)


# Windows can't replace a mapped file.


@pytest.fixture
def replaced(monkeypatch):
    """The files replaced during the test, none of which is mapped at that moment."""
    if not Path("/proc/self/maps").is_file():
        pytest.skip("only Linux says what is mapped")
    real, seen = os.replace, []

    def replace(source, target):
        inside = [one for one in Path(target).rglob("*") if one.is_file()] if Path(target).is_dir() else []
        for path in [Path(target), *inside]:
            assert not (path.is_file() and is_mapped(path)), f"{path} is replaced while it is mapped"
        assert not (Path(source).is_file() and is_mapped(Path(source))), f"{source} moves while it is mapped"
        seen.append(Path(target))
        real(source, target)

    monkeypatch.setattr(library.files.atomic.os, "replace", replace)
    return seen


@pytest.fixture
def lora(tmp_path) -> Path:
    """A file larger than a memory page, so that mapping it shows."""
    (path,) = save_lora(tmp_path, "dog", {"transformer_blocks.0.ff.net.2": layer(0, 512, 128)}, "float", {}, ["kohya"])
    return path


def test_the_check_sees_a_mapping(lora):
    tensors = load_file(lora)
    assert is_mapped(lora) and tensors
    del tensors
    assert not is_mapped(lora)


READERS = [read_tensors, read_file, read_lora, read_safetensors, read_weights, lambda path: load_changes(path, 1)]


@pytest.mark.parametrize("read", READERS)
def test_what_was_read_is_not_mapped(lora, read):
    kept = read(lora)
    assert kept and not is_mapped(lora)


def test_drawn_pictures_are_not_mapped_when_they_get_their_names(tmp_path, monkeypatch, replaced):
    def drawn(seed, taught, total, side):
        yield 0, np.zeros((total, SIDE, SIDE, 3), np.uint8), np.ones((total, SIDE, SIDE), np.uint8)

    monkeypatch.setattr(pocket_pictures, "drawn", drawn)
    found = pocket_pictures.draw_pictures(tmp_path, 2, 0, SIDE)
    assert len(replaced) == 2 and found.regions.all()


def test_a_thumbnail_replaces_no_mapped_file(lora, replaced):
    kept = read_lora(lora), read_file(lora)
    add_thumbnail(lora, b"jpeg")
    assert kept and replaced == [lora] and "modelspec.thumbnail" in read_lora(lora).metadata


def test_a_converted_file_may_go_back_where_it_was(lora, replaced):
    file = read_lora(lora)
    write_lora(lora, file.layers, "diffusers", torch.float32, {})
    assert replaced == [lora] and torch.equal(
        read_lora(lora).layers["transformer_blocks.0.ff.net.2"].delta(),
        file.layers["transformer_blocks.0.ff.net.2"].delta(),
    )


def test_a_run_may_start_from_the_files_that_it_replaces(plan_of, tmp_path, replaced):
    first = Run(plan_of(network_dim=16)).train()
    lora, extractor = tmp_path / "output" / "tiny.safetensors", tmp_path / "output" / "tiny_extractor.safetensors"
    assert lora in first and extractor.is_file()
    shutil.copy(lora, tmp_path / "base.safetensors")
    replaced.clear()
    own = {"network_weights": str(lora), "extractor": str(extractor), "base_weights": [str(lora)]}
    Run(plan_of(network_dim=16, overwrite=True, **own)).train()
    names = {path.name for path in replaced}
    assert {"tiny.safetensors", "tiny_diffusers.safetensors", "tiny_concept.safetensors"} <= names
    assert load_concepts(tmp_path / "output" / "tiny_concept.safetensors")


def test_a_resumed_run_replaces_no_mapped_file(plan_of, replaced):
    run = Run(plan_of(save_every_n_steps=1, save_state=True, max_train_steps=2))
    run.train()
    Run(plan_of(save_state=True, max_train_steps=3, resume="auto", overwrite=False)).train()
    assert any(path.name == "tiny.safetensors" for path in replaced)


def test_a_file_that_is_saved_while_the_test_holds_it_would_be_noticed(lora, replaced):
    held = load_file(lora)
    with pytest.raises(AssertionError, match="while it is mapped"):
        write_tensors(lora, {"a": torch.ones(2)})
    assert held
    save_file({"a": torch.ones(2)}, lora.with_name("other.safetensors"))
