"""What is published is of one size: the model, its judge, its pictures, and the files that train it."""

import json

import pytest

from gui.places import pocket_side
from library.config.data_settings import DataSettings
from library.config.dataset_file import read_concepts_and_pictures, read_dataset_config
from library.config.files import TomlFile, read_settings
from library.data.images import image_size
from tests.helpers.places import ROOT
from tools.pocket.autoencoder import SHRINKS
from tools.pocket.pen import SIDE
from tools.pocket.recipe import JUDGE
from tools.pocket.scorer import Scorer, load_scorer

POCKET = ROOT / "pocket"


def sides_of(folder: str) -> dict[str, int]:
    """The size that each part of the model was made for, in pixels or latents."""
    files = (POCKET / folder).glob("*/config.json")
    configs = {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
    return {name: config["sample_size"] for name, config in configs.items() if "sample_size" in config}


def test_the_model_and_its_judge_are_of_the_published_size():
    assert sides_of("model") == {"vae": SIDE, "transformer": SIDE // SHRINKS}
    assert pocket_side() == SIDE
    assert load_scorer(POCKET / JUDGE).side == Scorer(SIDE).side


@pytest.mark.parametrize("folder", ["subject-creature", "style-glass"])
def test_the_reference_pictures_are_of_the_published_size(folder):
    assert {image_size(file) for file in (POCKET / folder).glob("*.png")} == {(SIDE, SIDE)}


def test_files_that_train_the_pocket_model_type_the_published_size(monkeypatch):
    monkeypatch.chdir(ROOT)
    typed = {}
    for path in sorted((ROOT / "dataset_configs").glob("*.toml")):
        if "pocket/" in path.read_text(encoding="utf-8"):
            typed[path.name] = read_dataset_config(TomlFile(path), DataSettings()).datasets
    for path in sorted((ROOT / "presets").rglob("*.toml")):
        if "pocket/" in path.read_text(encoding="utf-8"):
            file = TomlFile(path)
            typed[path.name] = read_concepts_and_pictures(file, read_settings(file)).datasets
    assert {"creature.toml", "glass.toml", "demo.toml"} <= set(typed)
    sizes = {name: {one.resolution for one in datasets} for name, datasets in typed.items()}
    assert sizes == {name: {(SIDE, SIDE)} for name in typed}


def test_no_part_says_from_where_it_was_loaded():
    configs = sorted(POCKET.glob("**/config.json"))
    assert configs
    assert [file for file in configs if "_name_or_path" in json.loads(file.read_text(encoding="utf-8"))] == []
