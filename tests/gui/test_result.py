"""What a run has left: which file goes where, and a prompt to try."""

import pytest

from gui import delivery, projects, trials
from gui.machine import Machine
from gui.places import ROOT
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
    assert "Start ComfyUI again" in said and "PureCC Concept Loader" in said


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


def test_nothing_is_tried_while_the_card_is_busy(trained, new_run, pretended, client):
    new_run({}, {})
    answer = client.post(f"{PAGE}/trials", data={"prompt": "x"})
    assert answer.status_code == 422 and "busy" in answer.text


def test_a_project_without_runs_says_so(client, root):
    projects.create(root, "Cat")
    for page in ("training", "result"):
        assert "/p/Cat/plan" in client.get(f"/p/Cat/{page}").text
