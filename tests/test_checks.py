"""What a run would stumble over is said by the dry run: every setting that names a file or a folder, and what fits what."""

import dataclasses
import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import purecc_train
from library.config.dataset import Source
from library.config.fields import hints_of, name_of
from library.config.kohya import PATHS
from library.config.settings import GROUPS
from library.errors import exit_code_of
from tests.conftest import DATASET, tiny_settings

SAFETENSORS = ".safetensors"
READ = {
    "clip_l": SAFETENSORS,
    "clip_g": SAFETENSORS,
    "t5xxl": SAFETENSORS,
    "vae": SAFETENSORS,
    "extractor": SAFETENSORS,
    "network_weights": SAFETENSORS,
    "base_weights": SAFETENSORS,
    "previous_loras": SAFETENSORS,
    "dataset_config": ".toml",
    "log_tracker_config": ".toml",
    "sample_prompts": ".txt",
    "replay_prompts": ".txt",
    "audit_prompts": ".txt",
    "metadata_thumbnail": ".png",
}
"""Settings of a file that is read, with its ending."""
LISTED = ("train_data_dir", "reg_data_dir", "image_dir", "conditioning_data_dir", "resume")
"""Settings of a folder that is read."""
WRITTEN = ("output_dir", "cache_dir", "logging_dir")
"""Settings of a folder that is made where it is not there."""
BOTH = ("pretrained_model_name_or_path",)
OF_THE_COMMAND_LINE = ("config_file",)
NAMES_NONE = {
    "output_name",
    "log_prefix",
    "caption_extension",
    "class_tokens",
    "caption_templates",
    "trigger",
    "class_word",
    "kind",
    "save_precision",
    "save_formats",
    "log_with",
    "concept",
    "target_modules",
} | {name_of(field) for field in dataclasses.fields(GROUPS["metadata"])} - {"metadata_thumbnail"}
"""Settings that speak of files or folders and name none."""
NOT_ROOT = pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="may read and write everything")


def junk(path: Path) -> None:
    path.write_bytes(bytes(range(128, 256)) * 4)


def unreadable(path: Path) -> None:
    path.write_text("a [V] dog\na house\n")
    path.chmod(0)


def read_only(path: Path) -> None:
    path.mkdir()
    path.chmod(0o555)


FAULTS = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a file": lambda path: path.write_text("a [V] dog\na house\n"),
    "junk": junk,
    "unreadable": unreadable,
    "read-only": read_only,
}
WANTED = {
    **dict.fromkeys(READ, ("missing", "a folder", "junk", "unreadable")),
    **dict.fromkeys(LISTED, ("missing", "a file", "a folder")),
    **dict.fromkeys(WRITTEN, ("a file", "read-only")),
    **dict.fromkeys(BOTH, ("missing", "a folder", "junk", "unreadable")),
}
CASES = [
    pytest.param(setting, fault, marks=NOT_ROOT if fault in ("unreadable", "read-only") else (), id=f"{setting}-{fault}")
    for setting, faults in WANTED.items()
    for fault in faults
    if (setting, fault) != ("reg_data_dir", "a folder")  # regularisation pictures may be none
]


def test_no_setting_of_a_file_is_forgotten():
    assert PATHS - set(OF_THE_COMMAND_LINE) == set(WANTED)
    for group in (*GROUPS.values(), Source):
        for field in dataclasses.fields(group):
            text = hints_of(group)[field.name] in (str, str | None, list[str])
            if text and re.search(r"\b(file|folder|picture)s?\b", field.metadata["help"], re.IGNORECASE):
                assert name_of(field) in PATHS | NAMES_NONE, f"{name_of(field)}: is it a path?"


@pytest.fixture
def dry_run(tiny_model, pictures, tmp_path, monkeypatch, capsys):
    """Runs the command with --dry_run on the tiny model; returns its exit code and what it said of errors."""
    (tmp_path / "data.toml").write_text(DATASET.format(pictures=pictures))
    (tmp_path / "replay.txt").write_text("a red {class}\na blue house\n")
    (tmp_path / "samples.txt").write_text("a [V] dog\n")

    def call(**settings) -> tuple[int, str]:
        given = {**tiny_settings(tiny_model, tmp_path), "dataset_config": str(tmp_path / "data.toml"), **settings}
        file = tmp_path / "run.json"
        file.write_text(json.dumps({name: value for name, value in given.items() if value is not None}))
        monkeypatch.setattr(sys, "argv", ["purecc_train.py", "--dry_run", "--config_file", str(file)])
        code = exit_code_of(lambda: purecc_train.main([]), lambda: None)
        return code, capsys.readouterr().err

    return call


def settings_with(setting: str, path: Path, tmp_path: Path) -> dict:
    """What has to be set so that a path is looked at."""
    subset = {"image_dir": "{pictures}", setting: str(path)}
    also = {
        "resume": {},
        "previous_loras": {"method": "cifc"},
        "logging_dir": {"log_with": "tensorboard"},
        "train_data_dir": {"dataset_config": None, "trigger": "sks", "class_word": "dog"},
    }
    if setting == "reg_data_dir":
        folder = tmp_path / "train" / "1_sks dog"
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / "a.png")
        also[setting] = {"dataset_config": None, "train_data_dir": str(folder.parent), "resolution": 32}
    if setting in ("image_dir", "conditioning_data_dir"):
        text = (tmp_path / "data.toml").read_text()
        if setting == "image_dir":
            text = re.sub('image_dir = ".*"', f"image_dir = {json.dumps(subset[setting])}", text)
        else:
            text += f"  conditioning_data_dir = {json.dumps(subset[setting])}\n"
        (tmp_path / "data.toml").write_text(text)
        return {"masked_loss": True}
    value = [str(path)] if setting in ("base_weights", "previous_loras") else str(path)
    return {setting: value, **also.get(setting, {})}


@pytest.mark.parametrize(("setting", "fault"), CASES)
def test_what_a_setting_names_and_can_not_be_used_is_said_by_the_dry_run(setting, fault, dry_run, tmp_path):
    path = tmp_path / f"named{READ.get(setting, '')}"
    FAULTS[fault](path)
    code, said = dry_run(**settings_with(setting, path, tmp_path))
    assert code == 2 and said.count("error: ") == 1 and "Traceback" not in said, said
    assert setting in said and "named" in said, said


def test_the_dry_run_leaves_no_folder_behind(dry_run, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, said = dry_run(logging_dir=str(tmp_path / "deep" / "logs"), log_with="tensorboard")
    assert code == 0, said
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "run.json") == before
