"""From a project to the trainer's settings, and the trainer's answers."""

import dataclasses
import itertools
import json
import struct
import sys
import time

import pytest

from gui import children, declared, machine, projects, recipes
from gui.forecasts import Forecasts
from gui.machine import Machine
from gui.places import ROOT, pocket_side
from library.config.dataset_file import read_concepts_and_pictures
from library.config.fields import name_of
from library.config.files import TomlFile, read_settings
from library.config.groups import groups
from library.errors import ConfigError
from tests.helpers.window import until

EVERY_WAY = list(itertools.product(projects.KINDS, projects.MODELS, projects.USES, projects.EFFORTS))


@pytest.fixture
def with_model(tmp_path) -> Machine:
    """A computer that seems to have the model's files."""
    files = {name: tmp_path / f"{name}.safetensors" for name in ("model", "clip_l", "clip_g", "t5xxl")}
    for file in files.values():
        file.write_bytes(b"")
    return Machine(**{name: str(file) for name, file in files.items()})


@pytest.mark.parametrize(("kind", "model", "use", "effort"), EVERY_WAY)
def test_every_choice_is_a_run_that_the_trainer_reads(kind, model, use, effort, project, with_model, tmp_path):
    chosen = {"kind": kind, "model": model, "use": use, "effort": effort, "resolution": "768"}
    plan = recipes.plan_of(project.with_values(chosen), with_model, tmp_path / "cache")
    file = TomlFile(plan)
    settings = read_settings(file)
    config = read_concepts_and_pictures(file, settings)
    side = pocket_side() if model == "pocket" else 768
    assert config.datasets[0].resolution == (side, side) and config.concepts[0].kind == kind
    assert settings.saving.output_name == "My-dog" and settings.saving.cache_dir == str(tmp_path / "cache")
    steps = settings.optimizer.max_train_steps
    assert steps == recipes.LENGTHS[effort] * TomlFile(recipes.preset_of(dataclasses.replace(
        project, kind=kind, model=model, use=use, effort=effort))).tables["optimizer"]["max_train_steps"]  # fmt: skip
    assert settings.samples.sample_every_n_steps == settings.saving.save_every_n_steps == steps // recipes.SHEETS
    path = settings.model.pretrained_model_name_or_path
    assert path == (str(ROOT / "pocket" / "model") if model == "pocket" else with_model.model)


def test_what_is_missing_is_reported_before_anything_is_made(client, root):
    client.post("/projects", data={"name": "Cat"})
    assert "any pictures yet" in client.post("/p/Cat/start").text
    assert not list((root / "Cat" / "runs").iterdir())


def test_a_model_that_was_moved_away_is_named(client, project, root, with_model):
    (with_model.save(root)).save(root)
    client.post("/p/My-dog/plan", data={"model": "sd35"})
    (root.parent / "model.safetensors").unlink()
    said = client.post("/p/My-dog/start")
    assert said.status_code == 422 and "no longer exists" in said.text and "model.safetensors" in said.text
    assert "is no longer there" in client.get("/").text


def test_all_settings_are_those_that_are_declared(client, project):
    names = {name_of(field) for group in groups().values() for field in dataclasses.fields(group)} - declared.HIDDEN
    shown = declared.all_settings({}, {"network_dim": 8})
    assert {one.name for one in shown} == names and len(shown) == len(names)
    assert shown[0].name == "network_dim" and shown[0].changed
    page = client.get("/p/My-dog/settings").text
    assert all(f'id="s-{name}"' in page for name in names)


def test_a_setting_is_checked_as_the_trainer_checks_it(client, project, root):
    def change(name, value):
        return client.post("/p/My-dog/settings", data={"name": name, "value": value})

    assert "network_dim = 8" in change("network_dim", "8").text
    assert change("lambda", "0.5").status_code == change("merged", "true").status_code == 200
    assert change("sample_strengths", "[0.5, 1]").status_code == 200
    for name, value, said in [
        ("network_dim", "many", "network_dim"),
        ("network_dim", "-3", "at least"),
        ("netwrk_dim", "3", "network_dim"),
        ("output_dir", "/etc", "window sets"),
        ("lr_scheduler", "zigzag", "constant"),
    ]:
        answer = change(name, value)
        assert answer.status_code == 422 and said in answer.text, answer.text
    changed = projects.load(root, "My-dog").changed
    assert changed == {"network_dim": 8, "lambda": 0.5, "merged": True, "sample_strengths": [0.5, 1]}
    plan = TomlFile(project.folder / "plan.toml").tables
    assert plan["network"]["network_dim"] == 8 and plan["pure_learning"]["lambda"] == 0.5
    change("lambda", "")
    assert "lambda" not in projects.load(root, "My-dog").changed


def test_settings_that_contradict_each_other_are_reported(client, project):
    client.post("/p/My-dog/settings", data={"name": "eta", "value": "0"})
    said = client.post("/p/My-dog/settings", data={"name": "concept_loss_weight", "value": "0"}).text
    assert "stage 2 would learn nothing" in said
    assert client.post("/p/My-dog/start").status_code == 422


def test_toml_sets_all_changes_at_once(client, project, root):
    text = '[network]\nnetwork_dim = 16\n[optimizer]\noptimizer_args = ["weight_decay=0.1"]\n'
    page = client.post("/p/My-dog/settings/toml", data={"toml": text}).text
    assert projects.load(root, "My-dog").changed == {"network_dim": 16, "optimizer_args": ["weight_decay=0.1"]}
    assert (
        declared.from_toml(declared.as_toml(projects.load(root, "My-dog").changed))
        == projects.load(root, "My-dog").changed
    )
    assert "--config_file" in page
    for wrong in (
        "network_dim = ",
        "network_dim = 1\nnetwork_dim = 2",
        "nonsense = 1",
        "network_dim = 99999999999999999999",
    ):
        assert client.post("/p/My-dog/settings/toml", data={"toml": wrong}).status_code == 422
    client.post("/p/My-dog/settings/toml", data={"toml": ""})
    assert projects.load(root, "My-dog").changed == {}


TRAINER = """
import json, sys
assert sys.argv[-2:] == ["--dry_run", "--json"]
if "etta" in open(sys.argv[2]).read(): sys.exit(print("error: no setting etta.", file=sys.stderr) or 2)
print(json.dumps({"findings": [{"what": "<b>Dark</b>.", "remedy": "Lamp."}], "taken": [], "card": %s,
    "memory": {"peak": 2 ** 31}, "time": {"together": 7200, "on": "RTX 3060", "measured": False},
    "disk": {"cache": 10 ** 9, "results": 10 ** 9}}))
"""


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    """A trainer that forecasts at once."""

    def answer(card):
        file = tmp_path / "trainer.py"
        file.write_text(TRAINER % card)
        monkeypatch.setattr("gui.forecasts.TRAIN", file)

    return answer


def forecast(client) -> str:
    def ready():
        answer = client.get("/p/My-dog/forecast", headers={"HX-Request": "true"})
        return answer.text if answer.status_code == 286 else None

    return until(ready)


def test_the_forecast_is_the_trainers_own(client, project, trainer):
    trainer('{"bytes": 12 * 2**30, "fits": True}')
    said = forecast(client)
    assert "2.0 h" in said and "2.0 GiB" in said and "of 12.0 GiB" in said and "2.0 GB" in said
    assert "&lt;b&gt;Dark" in said and "does not fit" not in said
    assert json.loads((project.folder / "forecast.json").read_text())["tables"]["card"]["fits"]


def test_a_forecast_is_made_again_when_something_changes(client, project, trainer):
    trainer("None")
    forecast(client)
    first = (project.folder / "forecast.json").read_text()
    assert forecast(client) and (project.folder / "forecast.json").read_text() == first
    client.post("/p/My-dog/captions/of/1.png", data={"text": "a [V] creature elsewhere"})
    assert client.get("/p/My-dog/forecast").status_code == 200
    forecast(client)
    assert (project.folder / "forecast.json").read_text() != first


def test_what_does_not_fit_and_a_full_disk_are_reported(client, project, trainer, monkeypatch):
    trainer('{"bytes": 2**30, "fits": False}')
    monkeypatch.setattr("gui.machine.free_disk", lambda folder: 10**9)
    said = forecast(client)
    assert "does not fit your GPU" in said and "not enough disk space" in said


def test_the_trainers_mistake_is_shown_as_it_says_it(client, project, trainer, monkeypatch):
    trainer("None")
    monkeypatch.setattr("gui.recipes.prompts_for", lambda project: "")
    plan = project.folder / "plan.toml"
    recipes.plan_of(project, Machine(), project.folder / "cache")
    plan.write_text(plan.read_text() + "# etta\n")
    made = Forecasts()
    assert until(lambda: made.of(project, plan, "digest")).problem == "no setting etta."
    made.close()


def test_a_forecast_that_nobody_waits_for_is_ended(client, project, monkeypatch, tmp_path, new_run):
    slow, noted = tmp_path / "slow.py", tmp_path / "pid"
    slow.write_text(f"import os, time\nopen({str(noted)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
    monkeypatch.setattr("gui.forecasts.TRAIN", slow)
    assert client.get("/p/My-dog/forecast").status_code == 200
    began = until(lambda: noted.exists() and noted.read_text())
    new_run()
    client.get("/p/My-dog/runs/001")
    until(lambda: not children.lives(int(began), time.time()))


# What this computer has


def tensors(path, *names: str):
    """A safetensors file with these tensors, empty ones."""
    header = json.dumps({name: {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]} for name in names}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header)


SD35 = [f"model.diffusion_model.joint_blocks.{n}.x_block.attn2.qkv.weight" for n in range(24)]


@pytest.fixture
def comfyui(tmp_path):
    folder = tmp_path / "ComfyUI"
    (folder / "custom_nodes").mkdir(parents=True)
    tensors(folder / "models/checkpoints/other.safetensors", "model.diffusion_model.double_blocks.0.x")
    tensors(folder / "models/checkpoints/sd3/sd3.5_medium.safetensors", *SD35)
    tensors(folder / "models/clip/clip_l.safetensors", "text_model.encoder.layers.0.mlp.fc1.weight")
    return folder


def test_comfyuis_files_are_found_by_what_they_hold(comfyui):
    found = machine.with_ui(Machine(), str(comfyui))
    assert found.comfyui == str(comfyui) and found.model.endswith("sd3.5_medium.safetensors")
    assert found.missing() == ["clip_g", "t5xxl"]
    tensors(comfyui / "models/text_encoders/g.safetensors", "text_model.encoder.layers.30.mlp.fc1.weight")
    tensors(comfyui / "models/text_encoders/t5.safetensors", "encoder.block.0.layer.0.SelfAttention.q.weight")
    found = machine.with_ui(found, f'"{comfyui / "models"}"')
    assert found.missing() == [] and found.clip_g.endswith("g.safetensors")
    encoders = [f"text_encoders.{name}.x" for name in ("clip_l", "clip_g", "t5xxl")]
    tensors(comfyui / "models/checkpoints/whole.safetensors", *SD35, *encoders)
    alone = machine.with_ui(Machine(), str(comfyui))
    assert alone.model.endswith("whole.safetensors") and Machine(model=alone.model).missing() == []


def test_what_is_still_missing_is_on_the_first_page(client, root, comfyui):
    assert client.post("/machine", data={"ui": str(comfyui)}).headers["hx-redirect"] == "/"
    page = client.get("/").text
    assert "<code>clip_g.safetensors" in page and "<code>clip_l.safetensors" not in page and "Still missing" in page
    assert client.post("/machine", data={"ui": str(comfyui / "custom_nodes")}).status_code == 422
    assert client.post("/machine", data={"model": "/nowhere.safetensors"}).status_code == 422


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_the_gpu_is_as_its_driver_says(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 3060, 9000, 12288'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine.card() == machine.Card("NVIDIA GeForce RTX 3060", 9000 * 2**20, 12288 * 2**20)
    program.write_text("#!/bin/sh\necho broken\n")
    assert machine.card() is None


def test_a_wrong_choice_of_kind_is_not_a_concept(project):
    with pytest.raises(ConfigError, match="class word is missing"):
        dataclasses.replace(project, class_word="").concept()
