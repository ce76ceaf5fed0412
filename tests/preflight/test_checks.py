"""What a run would stumble over is said by the dry run: every file and folder that is named, and what fits what."""

import contextlib
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
from library.adapters.files import load_lora
from library.adapters.network import AdapterNetwork
from library.config.dataset import Source
from library.config.fields import hints_of, name_of
from library.config.groups import groups, paths
from library.errors import ConfigError, ModelError, StorageError, exit_code_of
from library.files.checkpoint import Position, SavedState, StateFolder
from library.models.opening import load_model
from library.models.sd3.settings import ATTENTION, KINDS
from library.preflight.checks import check, files_written, the_device_can_do_it
from library.preflight.doctor import findings
from library.training.run import Run
from tests.helpers.datasets import DATASET
from tests.helpers.runs import ready
from tests.helpers.tiny import BLOCKS, tiny_settings

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
} | {name_of(field) for field in dataclasses.fields(groups()["metadata"])} - {"metadata_thumbnail"}
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
NONE_OR_MANY = [("reg_data_dir", "a folder"), ("conditioning_data_dir", "a folder")]
"""No regularisation picture is no mistake, and each picture without a mask is one."""
CASES = [
    pytest.param(
        setting, fault, marks=NOT_ROOT if fault in ("unreadable", "read-only") else (), id=f"{setting}-{fault}"
    )
    for setting, faults in WANTED.items()
    for fault in faults
    if (setting, fault) not in NONE_OR_MANY
]


def test_no_setting_of_a_file_is_forgotten():
    assert paths() - set(OF_THE_COMMAND_LINE) == set(WANTED)
    for group in (*groups().values(), Source):
        for field in dataclasses.fields(group):
            text = hints_of(group)[field.name] in (str, str | None, list[str])
            if text and re.search(r"\b(file|folder|picture)s?\b", field.metadata["help"], re.IGNORECASE):
                assert name_of(field) in paths() | NAMES_NONE, f"{name_of(field)}: is it a path?"


@pytest.fixture
def dry_run(tiny_model, pictures, tmp_path, monkeypatch, capsys):
    """Runs the command with --dry_run, or --doctor, on the tiny model: its exit code and what it said of errors."""
    (tmp_path / "data.toml").write_text(DATASET.format(pictures=pictures))
    (tmp_path / "replay.txt").write_text("a red {class}\na blue house\n")
    (tmp_path / "samples.txt").write_text("a [V] dog\n")

    def call(how: str = "--dry_run", **settings) -> tuple[int, str]:
        given = {**tiny_settings(tiny_model, tmp_path), "dataset_config": str(tmp_path / "data.toml"), **settings}
        file = tmp_path / "run.json"
        file.write_text(json.dumps({name: value for name, value in given.items() if value is not None}))
        monkeypatch.setattr(sys, "argv", ["purecc_train.py", how, "--config_file", str(file)])
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


def test_the_checks_leave_no_folder_behind(dry_run, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, said = dry_run("--doctor", logging_dir=str(tmp_path / "deep" / "logs"), log_with="tensorboard")
    assert code == 0, said
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "run.json") == before


# LoRAs that a student starts from

EVERY_KIND = [ending for endings in KINDS.values() for ending in endings]
"""What sd-scripts trains where nothing is said: attention, feed-forward and adaptive norms of both streams."""


@pytest.fixture
def lora(tiny_model, tmp_path):
    """Writes a LoRA file of some layers of the tiny model: `lora(["to_q"], rank=3, also={name: (out, in)})`."""

    def make(targets: list[str], rank: int = 2, also: dict[str, tuple[int, int]] | None = None, blocks=None) -> Path:
        counted = load_model(groups()["model"](pretrained_model_name_or_path=str(tiny_model))).counted()
        network = AdapterNetwork({"transformer_blocks": counted.blocks}, targets, blocks)
        shapes = {name: (one.base.out_features, one.base.in_features) for name, one in network.layers.items()}
        generator = torch.Generator().manual_seed(0)
        tensors = {}
        for name, (wide, read) in {**shapes, **(also or {})}.items():
            tensors[f"transformer.{name}.lora_A.weight"] = torch.randn(rank, read, generator=generator)
            tensors[f"transformer.{name}.lora_B.weight"] = torch.randn(wide, rank, generator=generator)
        save_file(tensors, tmp_path / "start.safetensors")
        return tmp_path / "start.safetensors"

    return make


def test_layers_that_do_not_learn_are_said_by_the_dry_run_with_the_setting_that_makes_them(dry_run, lora):
    code, said = dry_run(network_weights=str(lora(EVERY_KIND)))
    assert code == 2 and said.count("error: ") == 1
    assert re.search(
        r"network_weights: \S+start\.safetensors changes 32 layers that are not trained here, such as", said
    )
    assert "dim_from_weights = true" in said


def test_dim_from_weights_lets_every_layer_of_the_file_learn_as_in_sd_scripts(plan_of, lora):
    file = lora(EVERY_KIND, rank=3)
    plan = plan_of(network_weights=str(file), dim_from_weights=True, eta=0.0, replay_images=0)
    assert set(plan.settings.network.target_modules) == set(EVERY_KIND)
    assert (plan.settings.network.network_dim, plan.settings.network.network_alpha) == (3, 3.0)
    run = ready(plan)
    mine, given = run.parts.network.weights("student"), load_lora(file, BLOCKS)
    assert set(mine) == set(given)
    for name, one in given.items():
        torch.testing.assert_close(mine[name].delta(), one.delta())


def test_dim_from_weights_changes_no_layers_for_a_file_of_attention_alone(plan_of, lora):
    plan = plan_of(network_weights=str(lora(ATTENTION)), dim_from_weights=True)
    assert tuple(plan.settings.network.target_modules) == tuple(ATTENTION)


@pytest.mark.parametrize(
    ("targets", "given", "remedy"),
    [
        (["to_q", "ff.net.2"], {"target_modules": ["to_q"]}, 'Add "ff.net.2" to target_modules'),
        (["to_q", "ff.net.2"], {"target_modules": ["to_q"], "dim_from_weights": True}, 'Add "ff.net.2"'),
        (["add_q_proj"], {"train_block_indices": "0"}, 'train_block_indices = "all"'),
    ],
)
def test_what_makes_a_files_layers_learn_is_named(plan_of, lora, targets, given, remedy):
    with pytest.raises(ModelError, match="are not trained here") as error:
        Run(plan_of(network_weights=str(lora(targets)), **given))
    assert remedy in error.value.remedy and "base_weights" in error.value.remedy


def test_a_layer_outside_of_the_blocks_is_said_with_a_way_to_use_the_file(plan_of, lora):
    file = lora(["to_q"], also={"proj_out": (16, 32)})
    with pytest.raises(
        ModelError, match=r"network_weights: .*1 layers? that are not trained here, such as proj_out"
    ) as error:
        Run(plan_of(network_weights=str(file), dim_from_weights=True))
    assert "base_weights" in error.value.remedy


def test_a_file_of_another_model_is_said(plan_of, lora):
    file = lora(["add_k_proj"], also={"transformer_blocks.0.attn.add_q_proj": (64, 64)})
    with pytest.raises(ModelError, match=r"network_weights: .*different shape than the model's layer"):
        Run(plan_of(network_weights=str(file)))
    with pytest.raises(ModelError, match=r"previous_loras: .*has 64 inputs"):
        Run(plan_of(method="cifc", previous_loras=[str(file)]))


def test_all_that_is_wrong_is_said_at_once(dry_run, tmp_path):
    (tmp_path / "taken").write_text("")
    wrong = {"output_dir": str(tmp_path / "taken"), "target_modules": ["to_x"], "metadata_thumbnail": "nowhere.png"}
    wrong["log_tracker_config"] = "nowhere.toml"
    code, said = dry_run(**wrong, log_with="tensorboard")
    assert code == 2 and said.count("error: ") == len(wrong), said
    assert all(name in said for name in wrong)


def test_an_unfinished_run_in_the_way_is_said_by_the_dry_run(dry_run, tmp_path):
    state = SavedState(Position({"student": 1}), {}, {})
    StateFolder(tmp_path / "output" / "tiny-state").save(state)
    code, said = dry_run()
    assert code == 2 and "contains an unfinished run" in said
    assert dry_run("--doctor", overwrite=True)[0] == 0
    assert StateFolder(tmp_path / "output" / "tiny-state").newest(), "a dry run removes nothing"


def test_a_path_that_is_too_long_names_the_folder_and_the_file(plan_of, tmp_path):
    deep = tmp_path.joinpath(*["d" * 200] * 20)
    with pytest.raises(StorageError, match=r"cache_dir: a file name as long as .*its name or path is too long"):
        Run(plan_of(cache_dir=str(deep)))
    assert not (tmp_path / ("d" * 200)).exists()


def test_several_processes_and_fused_steps_are_refused_before_anything_is_computed(plan_of):
    with pytest.raises(ConfigError, match="fused_backward_pass works in one process only"):
        check(plan_of(processes=2, method="dreambooth", optimizer_type="AdamW"))


def test_a_cache_that_may_only_be_read_is_no_mistake_but_a_finding(plan_of, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    plan = plan_of()
    assert "cache_dir" in files_written(plan)
    monkeypatch.setattr("library.preflight.checks.os.access", lambda *_: False)
    assert "cache_dir" not in files_written(plan)
    assert any("cache_dir" in finding.what for finding in findings(plan))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_quantization": "fp8"}, "base_quantization"),
        ({"network_dropout": 0.1, "gradient_checkpointing": True}, "gradient_checkpointing"),
        ({"network_dropout": 0.1, "base_quantization": "int8"}, None),
    ],
)
def test_what_apples_devices_can_not_do_is_refused(plan_of, settings, said):
    plan = plan_of(**settings)
    the_device_can_do_it(plan)
    plan.parts.model.device = torch.device("mps")
    with pytest.raises(ConfigError, match=said) if said else contextlib.nullcontext():
        the_device_can_do_it(plan)
