"""Strangers' LoRA files, damaged in every way: each program reports it in one sentence and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

import purecc_convert
from library.adapters.files import read_lora
from library.errors import ModelError
from library.models.sd3.layouts.known import LAYOUTS
from tests.helpers.harmed_loras import DEEP, EVERYWHERE, FOR_ONE_MODEL, metadata_of, written


def assert_refused(answer, source: str = "dog") -> None:
    code, said, error = answer
    lines = error.strip().splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith("error: "))
    assert code == 2 and said == "" and "Traceback" not in error, error
    assert source in lines[begin] and len(lines) - begin <= 3 and max(map(len, lines[begin:])) < 500, error


CONVERT = [["--to", "diffusers"], ["--bake", "{model}"]]


@pytest.mark.parametrize("words", CONVERT, ids=lambda words: words[0] + words[-1])
@pytest.mark.parametrize("harm", EVERYWHERE)
def test_convert_refuses_it(call, tmp_path, tiny_model, harm, words):
    path = written(tmp_path / "in", EVERYWHERE[harm])
    words = [word.format(model=tiny_model) for word in words]
    assert_refused(call(purecc_convert, "--lora", path, *words, "--output", tmp_path / "out.safetensors"))
    assert [one.name for one in tmp_path.rglob("*")] == ["in", "dog.safetensors"]


@pytest.mark.parametrize("harm", FOR_ONE_MODEL)
def test_convert_bakes_it_into_no_other_model(call, tmp_path, tiny_model, harm):
    path = written(tmp_path / "in", FOR_ONE_MODEL[harm])
    answer = call(purecc_convert, "--lora", path, "--bake", tiny_model, "--output", tmp_path / "out")
    assert answer[0] == 2 and "Traceback" not in answer[2] and answer[2].startswith("error: ")
    assert [one.name for one in tmp_path.rglob("*")] == ["in", "dog.safetensors"]


@pytest.mark.parametrize("harm", ["cut", "empty", "no header", "a lying header", "pickled", "10 MiB of text"])
def test_convert_shows_no_metadata_of_it(call, tmp_path, harm):
    path = written(tmp_path / "in", EVERYWHERE[harm])
    assert_refused(call(purecc_convert, "--lora", path, "--metadata", tmp_path / "out.json"))
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("program", ["convert", "generate"])
def test_deep_json_where_alpha_would_be_is_refused(call, tmp_path, generate, program):
    path = written(tmp_path / "in", metadata_of(lora_adapter_metadata=DEEP), "diffusers")
    out = tmp_path / "out.safetensors"
    words = ["--lora", path, "--to", "kohya", "--output", out]
    assert_refused(call(purecc_convert, *words) if program == "convert" else generate(path))
    assert not out.exists()


def test_metadata_like_paths_names_no_file(call, tmp_path):
    names = dict.fromkeys(("ss_output_name", "modelspec.title", "modelspec.merged_from"), "../../../x\x1b[2J")
    path = written(tmp_path / "in", metadata_of(**names, ss_tag_frequency=DEEP))
    code, said, _ = call(purecc_convert, "--lora", path, "--to", "diffusers")
    assert code == 0 and "\x1b" not in said
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["dog.safetensors", "dog_diffusers.safetensors", "in"]


@pytest.mark.parametrize("harm", [*EVERYWHERE, *FOR_ONE_MODEL])
def test_generate_refuses_it_before_anything_is_encoded(generate, tmp_path, harm):
    path = written(tmp_path / "in", {**EVERYWHERE, **FOR_ONE_MODEL}[harm])
    assert_refused(generate(path))
    assert [one.name for one in tmp_path.rglob("*")] == ["in", "dog.safetensors"]


def test_generate_refuses_a_damaged_concept_file(generate, tmp_path):
    path = written(tmp_path / "in")
    (tmp_path / "in" / "dog_concept.safetensors").write_bytes(path.read_bytes())
    assert_refused(generate(path), "dog_concept.safetensors")
    assert_refused(generate(path, "--concept", tmp_path / "gone.safetensors"), "gone.safetensors")
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["dog.safetensors", "dog_concept.safetensors", "in"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_file_unharmed_is_drawn_with(generate, tmp_path, layout):
    code, said, error = generate(written(tmp_path / "in", layout=layout))
    assert code == 0, error
    assert (tmp_path / "out" / "generated.png").is_file() and "Saved" in said


def test_an_embedding_is_told_from_a_lora(tmp_path):
    save_file({"clip_l": torch.zeros(1, 4), "clip_g": torch.zeros(1, 4)}, tmp_path / "words.safetensors")
    with pytest.raises(ModelError, match="is an embedding, not a LoRA"):
        read_lora(tmp_path / "words.safetensors")
