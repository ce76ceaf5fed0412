"""LoRA files of strangers, harmed in every way: each program says so in a sentence, and leaves nothing behind."""

from __future__ import annotations

import pickle
import struct
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import purecc_convert
import purecc_generate
from library.adapters.files import read_lora, save_lora
from library.adapters.layouts.known import LAYOUTS
from library.errors import ModelError, exit_code_of
from tests.adapters.test_layouts import layer
from tests.comfyui import test_nodes as test_comfyui_nodes
from tests.helpers.comfy_stand_ins import BASE as PLACE
from tests.helpers.tiny import LENGTH

comfy = test_comfyui_nodes.comfy
NAME = "transformer_blocks.0.ff.net.2"


def tensors_of(change):
    """A harm that changes the tensors."""

    def harm(path: Path) -> None:
        save_file(change(load_file(path)), path)

    return harm


def metadata_of(**metadata):
    def harm(path: Path) -> None:
        save_file(load_file(path), path, metadata)

    return harm


def bytes_of(change):
    def harm(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return harm


def ending(end, change):
    """Changes the tensors whose names end so."""
    return tensors_of(lambda file: {key: change(one) if key.endswith(end) else one for key, one in file.items()})


def with_nan(tensor):
    return torch.cat([torch.full_like(tensor[:1], float("nan")), tensor[1:]])


def renamed(name):
    """All layers as one of another model."""
    return tensors_of(
        lambda file: {name + key[key.index(".lora") :]: one for key, one in file.items() if ".lora" in key}
    )


EVERYWHERE = {
    "cut": bytes_of(lambda data: data[:-20]),
    "cut in the header": bytes_of(lambda data: data[:40]),
    "empty": bytes_of(lambda data: b""),
    "no header": bytes_of(lambda data: b"\xff" * 8 + b"{" * 100),
    "a lying header": bytes_of(lambda data: struct.pack("<Q", 1 << 40) + data[8:]),
    "pickled": bytes_of(lambda data: pickle.dumps({"a": 1})),
    "NaN": ending("lora_up.weight", with_nan),
    "infinite": ending("lora_down.weight", lambda one: one * float("inf")),
    "without its ups": tensors_of(lambda file: {key: one for key, one in file.items() if "lora_up" not in key}),
    "without its downs": tensors_of(lambda file: {key: one for key, one in file.items() if "lora_down" not in key}),
    "mixed ranks": ending("lora_up.weight", lambda one: torch.cat([one, one[:, :1]], dim=1)),
    "of Flux": renamed("lora_unet_double_blocks_0_img_attn_qkv"),
    "of SDXL": renamed("lora_unet_down_blocks_0_attentions_0_proj_in"),
    "names like paths": renamed("../../../etc/passwd"),
    "10 MiB of text": metadata_of(ss_comment="x" * (10 << 20)),
    "nothing": tensors_of(lambda file: {}),
}
"""What every program refuses. No harm keeps the file from being one of safetensors by its name."""
FOR_ONE_MODEL = {
    "of a larger model": renamed("lora_unet_joint_blocks_37_x_block_mlp_fc2"),
    "of a wider model": tensors_of(
        lambda file: {
            key: torch.cat([one, one], dim=one.ndim - 1) if "down" in key else one for key, one in file.items()
        }
    ),
}
"""What only shows where the model is at hand."""
DEEP = "[" * 200_000


def written(folder: Path, harm=None, layout: str = "kohya") -> Path:
    folder.mkdir(exist_ok=True)
    (path,) = save_lora(folder, "dog", {NAME: layer(0, 32, 128)}, "float", {}, [layout])
    if harm:
        harm(path)
    return path


@pytest.fixture
def call(monkeypatch, capsys):
    """A program in this process: exit code, what it printed, what it complained."""

    def run(program, *words):
        monkeypatch.setattr(sys, "argv", [f"{program.__name__}.py", *map(str, words)])
        code = exit_code_of(program.main, lambda: None)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


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


@pytest.fixture
def generate(call, tmp_path, tiny_model):
    """purecc_generate.py with this LoRA; its cache lies in `cache`, its sheet would in `out`."""

    def run(path: Path, *more: str):
        model = ["--pretrained_model_name_or_path", tiny_model, "--t5xxl_max_token_length", LENGTH]
        folders = ["--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "out"]
        small = ["--mixed_precision", "no", "--resolution", "32", "--sample_steps", "1", "--sample_seeds", "1"]
        return call(purecc_generate, *model, *folders, *small, "--lora", path, "--prompt", "a red dog", *more)

    return run


@pytest.mark.parametrize("harm", [*EVERYWHERE, *FOR_ONE_MODEL])
def test_generate_refuses_it_before_anything_is_encoded(generate, tmp_path, harm):
    path = written(tmp_path / "in", {**EVERYWHERE, **FOR_ONE_MODEL}[harm])
    assert_refused(generate(path))
    assert [one.name for one in tmp_path.rglob("*")] == ["in", "dog.safetensors"]


def test_generate_refuses_a_harmed_concept_file(generate, tmp_path):
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


def for_the_node(comfy, harm=None) -> str:
    """A LoRA for the stand-in's one layer, in its folder."""
    path = comfy.folder / "loras" / "dog.safetensors"
    halves = {"lora_up.weight": torch.ones(32, 4), "lora_down.weight": torch.ones(4, 128), "alpha": torch.tensor(4.0)}
    save_file({f"{PLACE}.{end}": one for end, one in halves.items()}, path)
    if harm:
        harm(path)
    return path.name


@pytest.mark.parametrize("harm", [*EVERYWHERE, *FOR_ONE_MODEL])
def test_the_node_refuses_it(comfy, harm):
    name = for_the_node(comfy, {**EVERYWHERE, **FOR_ONE_MODEL}[harm])
    with pytest.raises(ValueError, match=r"^dog\.safetensors") as refused:
        comfy.load(lora=name)
    assert len(str(refused.value)) < 500 and "\n" not in str(refused.value)


def test_the_node_loads_it_unharmed(comfy):
    model, _, _ = comfy.load(lora=for_the_node(comfy))
    assert [names for names, _ in model.loras] == [
        [f"{PLACE}.{e}" for e in ("alpha", "lora_down.weight", "lora_up.weight")]
    ]


def test_an_embedding_is_told_from_a_lora(tmp_path):
    save_file({"clip_l": torch.zeros(1, 4), "clip_g": torch.zeros(1, 4)}, tmp_path / "words.safetensors")
    with pytest.raises(ModelError, match="is an embedding, no LoRA"):
        read_lora(tmp_path / "words.safetensors")
