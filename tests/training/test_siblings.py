"""Stable Diffusion 3.5 Large and 3 Medium, trained from folders and from single files."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from library.models.sd3 import single_file as single_files
from library.report.log import read_log
from library.training.run import Run
from tests.helpers.runs import assert_equal_files, student_file
from tests.helpers.tiny import SD3_MEDIUM, SD35_LARGE, save_tiny_model
from tools.single_file import single_file

SIBLINGS = {"3-5-large": SD35_LARGE, "3-medium": SD3_MEDIUM}


@pytest.fixture(params=SIBLINGS)
def sibling(request, tmp_path):
    """Its name in metadata, and the folder of a tiny model of its shape."""
    return request.param, save_tiny_model(tmp_path / "model", **SIBLINGS[request.param])


def test_a_sibling_is_trained_and_its_files_load_where_they_should(sibling, plan_of, capsys):
    name, folder = sibling
    run = Run(plan_of(pretrained_model_name_or_path=str(folder), save_formats=["kohya", "diffusers", "onetrainer"]))
    run.train()
    said = capsys.readouterr()
    assert "WARNING" not in said.out + said.err
    checked = {line.split(":")[0].strip(): line for line in (said.out + said.err).splitlines() if "loads in" in line}
    a1111 = ", A1111" if name == "3-medium" else ""
    assert f"ComfyUI, reForge, Forge{a1111};" in checked["tiny.safetensors"]
    assert "diffusers;" in checked["tiny_diffusers.safetensors"]
    assert "SD.Next;" in checked["tiny_onetrainer.safetensors"]
    with safe_open(run.folder / "tiny.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.architecture"] == f"stable-diffusion-{name}/lora"
    assert metadata["ss_base_model_version"] == f"sd{name}"
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in read_log(run.folder / "log.jsonl") if "loss" in row)


def test_a_sibling_in_one_file_is_the_folder_to_the_bit(sibling, plan_of, monkeypatch, tmp_path):
    _, folder = sibling
    run = Run(plan_of(pretrained_model_name_or_path=str(folder)))
    run.train()
    from_folder = student_file(run)
    monkeypatch.setattr(single_files, "CONFIGURATIONS", (*single_files.CONFIGURATIONS, folder))
    save_file(single_file(folder), tmp_path / "model.safetensors")
    run = Run(plan_of(pretrained_model_name_or_path=str(tmp_path / "model.safetensors"), overwrite=True))
    run.train()
    assert_equal_files(from_folder, student_file(run))
