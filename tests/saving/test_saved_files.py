"""The files in the output folder at the end: described correctly, small enough, with a picture, and checked."""

import base64
import json
from dataclasses import replace
from io import BytesIO

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from library.adapters.files import add_thumbnail, read_safetensors, save_lora
from library.adapters.network import LayerWeights
from library.config.files import TomlFile, read_settings
from library.errors import ConfigError, DataError
from library.models.sd3.described import family_of
from library.models.sd3.layouts.known import LAYOUTS
from library.parts.parts import STUDENT_ADAPTER
from library.preflight.plan import make_plan
from library.saving.outputs import check_model_is_kept
from library.saving.reload import ReloadCheck
from library.training.run import Run
from tools.single_file import single_file

pytestmark = pytest.mark.usefixtures("shared_cache")

PLAIN = {"extractor_train_steps": 1, "eta": 0.0, "concept_embeddings": "none", "replay_images": 0, "anchor_weight": 0.0}
NO_WORK = {**PLAIN, "max_train_steps": 1}


@pytest.fixture
def trained(plan_of):
    """A finished run, still in memory."""
    run = Run(plan_of(**NO_WORK, save_formats=["kohya", "diffusers", "onetrainer"], network_alpha=2.0))
    run.files = run.train()
    for layer in run.parts.network.layers.values():
        torch.nn.init.normal_(layer.adapters[STUDENT_ADAPTER].up, std=0.2, generator=torch.Generator().manual_seed(1))
    return run


@pytest.mark.parametrize("precision", ["float", "fp16", "bf16"])
def test_every_layout_is_checked_and_loads_where_it_should(trained, tmp_path, precision):
    weights = trained.parts.network.weights(STUDENT_ADAPTER)
    formats = list(LAYOUTS)
    paths = save_lora(tmp_path, "again", weights, precision, {}, formats)
    check = ReloadCheck(trained.parts, trained.plan.samples[0].text)
    for path, layout in zip(paths, formats, strict=True):
        checked = check.of(path, layout)
        assert not checked.failed and checked.matched == checked.keys, checked.line
        assert checked.difference < 0.02 * checked.effect
        assert "loads in ComfyUI, reForge" in checked.line and "WARNING" not in checked.line


def harm_scale(file):
    return {key: tensor * 0.9 if key.endswith(".alpha") else tensor for key, tensor in file.items()}


def harm_streams(file):
    def other(key):
        return key.replace("x_block", "Y").replace("context_block", "x_block").replace("Y", "context_block")

    return {other(key) if "block_attn_qkv" in key else key: tensor for key, tensor in file.items()}


def harm_layer(file):
    return {key: tensor for key, tensor in file.items() if "joint_blocks_1_context_block_attn_qkv" not in key}


def harm_number(file):
    key = next(key for key in file if key.endswith("lora_up.weight"))
    return {**file, key: file[key].clone().fill_(float("nan"))}


def harm_foreign(file):
    return {**file, **{f"lora_concept.{index}": torch.zeros(1) for index in range(13)}}


@pytest.mark.parametrize("harm", [harm_scale, harm_streams, harm_layer, harm_number, harm_foreign])
def test_a_damaged_file_is_found(trained, tmp_path, harm):
    weights = trained.parts.network.weights(STUDENT_ADAPTER)
    (path,) = save_lora(tmp_path, "again", weights, "fp16", {}, ["kohya"])
    save_file(harm(load_file(path)), path)
    checked = ReloadCheck(trained.parts, trained.plan.samples[0].text).of(path, "kohya")
    assert {"ComfyUI", "Forge"} <= set(checked.failed)
    assert checked.line.startswith("WARNING") and "The file is kept" in checked.line
    assert path.is_file()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_run_says_of_each_file_where_it_loads(plan_of, capsys, precision):
    run = Run(plan_of(**NO_WORK, mixed_precision=precision))
    files = run.train()
    said = capsys.readouterr().err
    assert "tiny.safetensors: loads in ComfyUI, reForge, Forge; 27 of 27 keys" in said
    assert "tiny_diffusers.safetensors: loads in ComfyUI, reForge, diffusers; 30 of 30 keys" in said
    assert ("rounding of bf16" in said) == (precision == "bf16")
    assert all(path.is_file() for path in files)


def test_a_check_that_breaks_costs_no_file(plan_of, capsys, monkeypatch):
    monkeypatch.setattr("library.saving.reload.read_file", lambda path: 1 / 0)
    files = Run(plan_of(**NO_WORK)).train()
    assert "could not be checked (ZeroDivisionError" in capsys.readouterr().err
    assert {path.name for path in files} >= {"tiny.safetensors", "tiny_diffusers.safetensors"}
    assert all(path.is_file() for path in files)


@pytest.mark.parametrize("formats", [["onetrainer"], ["diffusers", "kohya"]])
def test_save_formats_chooses_the_files(plan_of, formats):
    run = Run(plan_of(**NO_WORK, save_formats=formats))
    files = run.train()
    ends = {"kohya": "tiny.safetensors", "diffusers": "tiny_diffusers.safetensors"}
    names = [ends.get(one, "tiny_onetrainer.safetensors") for one in formats]
    stem = names[0].removesuffix(".safetensors")
    assert [path.name for path in files] == [*names, f"{stem}.preview.png", f"{stem}.json"]


def test_the_metadata_says_what_uis_look_for(trained):
    for file in ("tiny.safetensors", "tiny_diffusers.safetensors", "tiny_onetrainer.safetensors"):
        path = trained.folder / file
        _, said = read_safetensors(path)
        assert said["ss_base_model_version"] == "sd3-5-medium"
        assert said["modelspec.architecture"] == "stable-diffusion-3-5-medium/lora"
        assert said["modelspec.sai_model_spec"] == "1.0.1"
        assert said["modelspec.title"] == said["ss_output_name"] == "tiny"
        assert said["modelspec.trigger_phrase"] == "sks"
        assert said["modelspec.resolution"] == "32x32"
        assert said["modelspec.date"].startswith("20") and said["modelspec.hash_sha256"].startswith("0x")
        assert json.loads(said["ss_tag_frequency"]) and said["ss_num_train_images"] == "4"
        assert json.loads(said["ss_bucket_info"])["buckets"]["0"] == {"resolution": [32, 32], "count": 4}
        kind, picture = said["modelspec.thumbnail"].split(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(BytesIO(base64.b64decode(picture))).size == (32, 32)
        assert int.from_bytes(path.read_bytes()[:8], "little") < 1 << 20


SAID = {
    "title": "Rex",
    "author": "Ann",
    "description": "A dog.",
    "license": "CC0-1.0",
    "tags": "dog, pet",
    "usage_hint": "write sks dog",
    "merged_from": "rex1, rex2",
    "trigger_phrase": "sks dog, sitting",
    "preprocessor": "none",
    "is_negative_embedding": "false",
}
RED = Image.new("RGB", (600, 300), (255, 0, 0))


def as_url(picture):
    written = BytesIO()
    picture.save(written, "PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


@pytest.mark.parametrize("how", ["file", "data URL"])
def test_what_the_user_says_of_a_lora_is_in_its_header_in_the_users_words(plan_of, tmp_path, how):
    RED.save(tmp_path / "red.png")
    picture = str(tmp_path / "red.png") if how == "file" else as_url(RED)
    own = {f"metadata_{name}": text for name, text in SAID.items()}
    run = Run(plan_of(**NO_WORK, **own, metadata_thumbnail=picture, training_comment="second try"))
    run.train()
    _, said = read_safetensors(run.folder / "tiny.safetensors")
    assert {name: said[f"modelspec.{name}"] for name in SAID} == SAID
    assert said["ss_training_comment"] == "second try" and said["ss_tag_frequency"]
    shown = Image.open(BytesIO(base64.b64decode(said["modelspec.thumbnail"].split(",")[1])))
    red, green, blue = shown.getpixel((9, 9))
    assert shown.size == (256, 128) and red > 245 and green < 10 > blue
    with Image.open(run.folder / "tiny.preview.png") as beside:
        assert beside.size == RED.size
    written = TomlFile(run.folder / "config.toml")
    assert read_settings(written).metadata == run.settings.metadata


def test_no_metadata_keeps_to_what_loads_the_file_and_to_modelspec(plan_of):
    run = Run(plan_of(**NO_WORK, no_metadata=True, metadata_author="Ann"))
    run.train()
    for file in ("tiny.safetensors", "tiny_diffusers.safetensors"):
        _, said = read_safetensors(run.folder / file)
        assert {name for name in said if name.startswith("ss_")} == {
            "ss_network_module",
            "ss_network_dim",
            "ss_network_alpha",
            "ss_base_model_version",
        }
        assert said["modelspec.author"] == "Ann" and "purecc" not in said


@pytest.mark.parametrize("wrong", ["nowhere.png", "data:image/png;base64,AAAA", "data:image/png;base64,?", "data:"])
def test_a_thumbnail_that_is_not_a_picture_is_reported_before_anything_is_computed(plan_of, wrong):
    with pytest.raises(DataError, match="metadata_thumbnail: "):
        Run(plan_of(**NO_WORK, metadata_thumbnail=wrong))


def test_forge_finds_picture_and_text(trained):
    sidecar = json.loads((trained.folder / "tiny.json").read_text())
    assert sidecar["activation text"] == "sks dog" and sidecar["preferred weight"] == 1.0
    with Image.open(trained.folder / "tiny.preview.png") as picture:
        assert picture.size == (32, 32)


def test_a_header_stays_below_what_comfyui_shows(tmp_path):
    weights = {"transformer_blocks.0.ff.net.2": LayerWeights(torch.randn(4, 128), torch.randn(32, 4), 4.0)}
    metadata = {"ss_tag_frequency": "x" * (2 << 20), "modelspec.title": "dog"}
    (path,) = save_lora(tmp_path, "lora", weights, "fp16", metadata, ["kohya"])
    add_thumbnail(path, b"x" * (1 << 20))
    tensors, said = read_safetensors(path)
    assert said["modelspec.title"] == "dog" and "ss_tag_frequency" not in said and "modelspec.thumbnail" not in said
    assert len(tensors) == 3


def test_a_thumbnail_leaves_tensors_and_hash_alone(tmp_path):
    weights = {"transformer_blocks.0.ff.net.2": LayerWeights(torch.randn(4, 128), torch.randn(32, 4), 4.0)}
    (path,) = save_lora(tmp_path, "lora", weights, "fp16", {}, ["kohya"])
    before, said = read_safetensors(path)
    add_thumbnail(path, b"picture")
    after, now = read_safetensors(path)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert {**said, "modelspec.thumbnail": now["modelspec.thumbnail"]} == now


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"dual_attention_layers": [0, 1], "qk_norm": "rms_norm"}, "3-5-medium"),
        ({"dual_attention_layers": [], "qk_norm": "rms_norm"}, "3-5-large"),
        ({}, "3-medium"),
    ],
)
def test_the_model_is_known_by_how_it_is_built(config, family):
    assert family_of(config) == family


@pytest.mark.parametrize(
    ("name", "refused"), [("tiny_transformer", True), ("tiny", True), ("other_transformer", False), ("tiny2", False)]
)
def test_a_run_never_writes_over_its_model(plan_of, tiny_model, tmp_path, name, refused):
    model = tmp_path / "output" / f"{name}.safetensors"
    model.parent.mkdir()
    save_file(single_file(tiny_model), model)
    plan = plan_of()
    settings = replace(plan.settings, model=replace(plan.settings.model, pretrained_model_name_or_path=str(model)))
    if not refused:
        check_model_is_kept(settings)
        return
    with pytest.raises(ConfigError, match="pretrained_model_name_or_path") as error:
        make_plan(settings, plan.config)
    assert str(model) in str(error.value) and "output_name" in str(error.value)
