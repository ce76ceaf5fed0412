"""The result of a run: which file goes where, and a prompt to try."""

import json
import tomllib
import zipfile
from io import BytesIO

import pytest
import torch
from markupsafe import escape
from safetensors.torch import save

from gui import audits, children, delivery, projects, trials
from gui.machine import Machine
from gui.pages.result import REPORT_POLICY
from gui.places import ROOT, pocket_side
from library.config.files import to_toml
from library.errors import ConfigError
from tests.helpers.window import until

PAGE = "/p/My-dog/runs/001"


@pytest.fixture
def trained(new_run):
    """A finished run with files of two steps."""
    run = new_run({"state": "done"}, {})
    for name in ("My-dog", "My-dog-step00000040"):
        for part in ("", "_diffusers", "_concept", "_embedding"):
            (run.folder / f"{name}{part}.safetensors").write_bytes(f"{name}{part}".encode())
    (run.folder / "My-dog_extractor.safetensors").write_bytes(b"extractor")
    (run.folder / "My-dog.preview.png").write_bytes(b"preview")
    (run.folder / "config.toml").write_text("")
    return run


@pytest.fixture
def comfyui(tmp_path, root):
    folder = tmp_path / "ComfyUI"
    for name in ("models/loras", "custom_nodes"):
        (folder / name).mkdir(parents=True)
    Machine(comfyui=str(folder)).save(root)
    return folder


def test_files_are_known_by_their_step(trained):
    assert list(trained.files()) == [40, None]
    assert delivery.lora_of(trained, None) == "My-dog.safetensors"
    assert delivery.lora_of(trained, 40) == "My-dog-step00000040.safetensors"
    with pytest.raises(ConfigError):
        delivery.lora_of(trained, 7)


def test_one_file_goes_into_comfyui(trained, comfyui, client):
    said = client.post(f"{PAGE}/deliver", data={"ui": "comfyui", "step": "40"}).text
    loras = comfyui / "models" / "loras"
    assert [one.name for one in loras.iterdir()] == ["My-dog.safetensors"]
    assert (loras / "My-dog.safetensors").read_bytes() == b"My-dog-step00000040"
    assert "a sks creature" in said and "LoRA loader" in said


def test_another_lora_of_that_name_stays(trained, comfyui, client):
    loras = comfyui / "models" / "loras"
    (loras / "My-dog.safetensors").write_bytes(b"somebody else's")
    client.post(f"{PAGE}/deliver", data={"ui": "comfyui", "step": "end"})
    client.post(f"{PAGE}/deliver", data={"ui": "comfyui", "step": "end"})
    found = {one.name: one.read_bytes() for one in loras.glob("*.safetensors")}
    assert found == {"My-dog.safetensors": b"somebody else's", "My-dog-2.safetensors": b"My-dog"}
    assert (loras / "My-dog-2.preview.png").read_bytes() == b"preview"


def test_our_nodes_come_along_where_they_are_used(trained, comfyui, client):
    client.post("/p/My-dog/plan", data={"use": "nodes"})
    said = client.post(f"{PAGE}/deliver", data={"ui": "comfyui"}).text
    names = {one.name for one in (comfyui / "models" / "loras").iterdir()}
    assert names == {"My-dog.safetensors", "My-dog_concept.safetensors"}
    nodes = comfyui / "custom_nodes" / "comfyui_purecc"
    assert (nodes / "__init__.py").read_bytes() == (ROOT / "comfyui_purecc" / "__init__.py").read_bytes()
    assert "Restart ComfyUI" in said and "PureCC Concept Loader" in said


def test_forge_has_a_folder_of_its_own(trained, tmp_path, root, client):
    (tmp_path / "forge" / "models" / "Lora").mkdir(parents=True)
    client.post("/machine", data={"ui": str(tmp_path / "forge")})
    client.post(f"{PAGE}/deliver", data={"ui": "forge"})
    assert (tmp_path / "forge" / "models" / "Lora" / "My-dog.safetensors").read_bytes() == b"My-dog"


@pytest.mark.parametrize("ui", ["comfyui", "forge", "model", "", "../x"])
def test_a_ui_whose_folder_is_not_there_is_a_sentence(ui, trained, root, client, tmp_path):
    Machine(comfyui=str(tmp_path / "gone"), model=str(tmp_path)).save(root)
    answer = client.post(f"{PAGE}/deliver", data={"ui": ui})
    assert answer.status_code == 422 and "home page" in answer.text


def test_the_page_offers_every_step_and_file(trained, comfyui, client):
    (trained.folder / "report.html").write_text("<p>report")
    page = client.get("/p/My-dog/result").text
    assert "Step 40" in page and "The end" in page and "Put it into ComfyUI" in page and "<iframe" in page
    assert client.get(f"{PAGE}/files/My-dog.safetensors").content == b"My-dog"
    for name in ("launch.json.txt", "output.log", "status", "My-dog-state"):
        assert client.get(f"{PAGE}/files/{name}").status_code == 404


def test_a_prompt_is_tried(trained, pretended, client):
    answer = client.post(f"{PAGE}/trials", data={"prompt": "--lora x [V] <b>", "strength": "0.75", "step": "40"})
    assert "&lt;b&gt;" in answer.text
    (trial,) = trials.trials_of(trained)
    until(lambda: trials.state_of(trained, trial)[0] == "done")
    assert client.get(f"{PAGE}/trials/001.png").content == b"\x89PNG pretended"
    assert (trial.strength, trial.lora) == (0.75, "My-dog-step00000040.safetensors")
    for wrong in (
        {"prompt": ""},
        {"prompt": "x", "strength": "strong"},
        {"prompt": "x", "step": "7"},
        {"prompt": "x", "strength": "inf"},
    ):
        assert client.post(f"{PAGE}/trials", data=wrong).status_code == 422


def test_nothing_is_tried_while_the_gpu_is_busy(trained, new_run, pretended, client):
    new_run({}, {})
    answer = client.post(f"{PAGE}/trials", data={"prompt": "x"})
    assert answer.status_code == 422 and "busy" in answer.text


@pytest.mark.parametrize("step", ["end", "40"])
def test_a_zip_holds_what_belongs_to_a_step(step, trained, client):
    (trained.folder / "report.html").write_text("<p>report")
    answer = client.get(f"{PAGE}/zip?step={step}")
    name = "My-dog" if step == "end" else "My-dog-step00000040"
    archive = zipfile.ZipFile(BytesIO(answer.content))
    assert archive.testzip() is None
    loras = {f"{name}{part}.safetensors" for part in ("", "_diffusers", "_concept", "_embedding")}
    preview = {"My-dog.preview.png"} if step == "end" else set()
    assert set(archive.namelist()) == loras | preview | {"report.html", "config.toml"}
    assert archive.read(f"{name}.safetensors") == name.encode()
    assert answer.headers["content-disposition"].endswith("My-dog.zip" if step == "end" else "My-dog-step40.zip")


def test_a_zip_names_no_folder_of_its_owners(trained, client):
    other = "D:\\Photos of Änna\\model.safetensors"
    named = {"output_dir": str(trained.folder), "image_dir": str(trained.project.pictures), "model": other}
    config = to_toml(named | {"metadata_thumbnail": "Photos of Anna/1.png", "sample_prompts": "a.txt"})
    (trained.folder / "config.toml").write_text(config, encoding="utf-8")
    report = f"<td>{trained.project.pictures}/0.png</td><td>{escape(other)}</td><td>a dog/cat</td>"
    (trained.folder / "report.html").write_text(report, encoding="utf-8")
    archive = zipfile.ZipFile(BytesIO(client.get(f"{PAGE}/zip").content))
    texts = archive.read("config.toml").decode() + archive.read("report.html").decode()
    for secret in (str(trained.project.folder.parent), "Photos", "nna"):
        assert secret not in texts
    for kept in ("…/pictures", "model.safetensors", "a.txt", "<td>a dog/cat</td>", "0.png"):
        assert kept in texts
    assert tomllib.loads(archive.read("config.toml").decode())["sample_prompts"] == "a.txt"


@pytest.mark.parametrize("step", ["7", "-1", "../x", "40.5"])
def test_a_step_without_files_has_no_zip(step, trained, client):
    assert client.get(f"{PAGE}/zip", params={"step": step}).status_code == 422


def lora() -> bytes:
    return save({"a": torch.zeros(2)})


def test_a_lora_of_the_project_is_audited(trained, pretended, client):
    assert "Run 001, step 40" in client.get(f"{PAGE}/result").text
    assert "Auditing" in client.post(f"{PAGE}/audits", data={"lora": "001/40", "trigger": "sks"}).text
    (audit,) = audits.audits_of(trained)
    until(lambda: audits.state_of(trained, audit)[0] == "done")
    said = json.loads((trained.folder / "audits" / "001" / "audit.json").read_text())["words"]
    assert said[0] == str(trained.folder / "My-dog-step00000040.safetensors") and not any(
        "--trigger" in one for one in said
    )
    page = client.get(f"{PAGE}/audits").text
    assert "behaviour kept" in page and "&lt;b&gt;" in page and "every 2s" not in page
    card = client.get(f"{PAGE}/audits/1")
    assert card.text == "<p>card" and card.headers["content-security-policy"] == REPORT_POLICY


def test_a_lora_from_elsewhere_is_audited_with_its_own_word(trained, pretended, client):
    sent = {"file": ("../Löwe <2>.safetensors", lora())}
    client.post(f"{PAGE}/audits", data={"lora": "001/end", "trigger": "zwx"}, files=sent)
    (audit,) = audits.audits_of(trained)
    until(lambda: audits.state_of(trained, audit)[0] == "done")
    said = json.loads((trained.folder / "audits" / "001" / "audit.json").read_text())["words"]
    file = trained.folder / "audits" / "brought" / "Löwe _2.safetensors"
    assert said[0] == str(file) and file.read_bytes() == lora()
    assert {"--trigger=zwx", "--class_word=creature", f"--resolution={pocket_side()}"} <= set(said)
    client.post(f"{PAGE}/audits", data={"trigger": "zwx"}, files={"file": ("b.safetensors", lora())})
    assert [one.name for one in file.parent.iterdir()] == ["b.safetensors"]  # one is kept, not all that ever existed


@pytest.mark.parametrize(
    ("form", "file", "said"),
    [
        ({"lora": "001/7"}, None, "chosen a LoRA"),
        ({"lora": "../001/end"}, None, "chosen a LoRA"),
        ({}, None, "chosen a LoRA"),
        ({"lora": "001/end", "trigger": " "}, None, "trigger word is missing"),
        ({}, ("a.ckpt", b"PK\x03\x04"), "not a .safetensors file"),
        ({}, ("a.safetensors", b"PK\x03\x04aaaaaaaaaaa"), "pickled"),
        ({}, ("a.safetensors", b""), '"a.safetensors"'),
        ({}, ("a.safetensors", lora()[:-1]), '"a.safetensors"'),
    ],
)
def test_what_can_not_be_audited_is_reported(form, file, said, trained, client, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *words, **more: pytest.fail("started"))
    sent = {"files": {"file": file}} if file else {}
    answer = client.post(f"{PAGE}/audits", data={"trigger": "sks"} | form, **sent)
    assert answer.status_code == 422 and said in answer.text and str(trained.folder) not in answer.text


def test_an_audit_that_fails_says_why(trained, client, monkeypatch, tmp_path):
    script = tmp_path / "evaluate.py"
    script.write_text("print('error: the LoRA is of another model.')\nraise SystemExit(2)\n")
    monkeypatch.setattr(audits, "EVALUATE", script)
    client.post(f"{PAGE}/audits", data={"lora": "001/end", "trigger": "sks"})
    until(lambda: "Auditing" not in client.get(f"{PAGE}/audits").text)
    assert "the LoRA is of another model." in client.get(f"{PAGE}/audits").text
    for number in ("1", "2", "x", "brought"):
        assert client.get(f"{PAGE}/audits/{number}").status_code == 404


def test_one_thing_at_a_time_is_drawn_or_audited(trained, client, monkeypatch, tmp_path):
    script = tmp_path / "wait.py"
    script.write_text("import time\ntime.sleep(60)\n")
    for module, name in ((audits, "EVALUATE"), (trials, "GENERATE")):
        monkeypatch.setattr(module, name, script)
    client.post(f"{PAGE}/audits", data={"lora": "001/end", "trigger": "sks"})
    for path, form in (("trials", {"prompt": "x"}), ("audits", {"lora": "001/end", "trigger": "sks"})):
        answer = client.post(f"{PAGE}/{path}", data=form)
        assert answer.status_code == 422 and "busy" in answer.text
    (audit,) = audits.audits_of(trained)
    children.end_at_once(audit.pid, audit.at)


def test_a_project_without_runs_says_so(client, root):
    projects.create(root, "Cat")
    for page in ("training", "result"):
        assert "/p/Cat/plan" in client.get(f"/p/Cat/{page}").text
