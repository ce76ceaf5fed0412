"""Every layout holds the same LoRA, and files of other trainers, or of none, are read or refused correctly."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from library.adapters.files import load_lora, read_lora, read_safetensors, save_lora
from library.adapters.reading import understood
from library.errors import ModelError
from library.models.sd3.layouts.known import LAYOUTS
from library.models.sd3.settings import ATTENTION
from tests.helpers.loras import PART, all_layers, assert_same, kohya_file, layer, network_on, whole_lora
from tests.helpers.tiny import BLOCKS, tiny_transformer


@pytest.mark.parametrize("alpha", [4.0, 2.0, 16.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_lora_comes_back_bit_for_bit(tmp_path, layout, alpha):
    weights = whole_lora(alpha=alpha)
    (path,) = save_lora(tmp_path, "lora", weights, "fp16", {}, [layout])
    assert_same(read_lora(path).layers, weights)


@pytest.mark.parametrize("targets", [ATTENTION, all_layers(), ["to_q"], ["to_k", "add_v_proj"]])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_choice_of_layers_comes_back_as_the_same_update(tmp_path, layout, targets):
    weights = network_on(tiny_transformer(), "student", targets=targets).weights("student")
    (path,) = save_lora(tmp_path, "lora", weights, "float", {}, [layout])
    back = read_lora(path).layers
    assert set(back) == set(weights)
    for name, one in weights.items():
        torch.testing.assert_close(back[name].delta(), one.delta(), rtol=1e-5, atol=1e-6)


def test_a_dense_file_of_kohya_survives_the_way_through_diffusers_bit_for_bit(tmp_path):
    base = "lora_unet_joint_blocks_1_x_block_attn_qkv"
    dense = layer(0, 96, 32, rank=6, alpha=3.0)
    tensors = {f"{base}.lora_down.weight": dense.down, f"{base}.lora_up.weight": dense.up}
    tensors[f"{base}.alpha"] = torch.tensor(3.0)
    first = understood(tensors, {}, "file").layers
    (path,) = save_lora(tmp_path, "lora", first, "fp16", {}, ["diffusers"])
    again = LAYOUTS["kohya"].write(read_lora(path).layers)
    assert set(again) == set(tensors)
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_text_encoders_keep_their_names(tmp_path, layout):
    names = ["text_encoder.text_model.encoder.layers.3.self_attn.out_proj"]
    names += ["text_encoder_2.text_model.encoder.layers.11.mlp.fc1"]
    names += ["text_encoder_3.encoder.block.2.layer.0.SelfAttention.q"] if layout != "diffusers" else []
    weights = {name: layer(seed, 16, 16) for seed, name in enumerate(names)}
    weights["transformer_blocks.0.ff.net.2"] = layer(9, 32, 128)
    (path,) = save_lora(tmp_path, "lora", weights, "float", {}, [layout])
    assert_same(read_lora(path).layers, weights)
    with pytest.raises(ModelError, match="text encoders"):
        load_lora(path, BLOCKS)


def test_diffusers_gets_no_t5(tmp_path):
    weights = {"text_encoder_3.encoder.block.2.layer.0.SelfAttention.q": layer(0, 16, 16)}
    with pytest.raises(ModelError, match="T5"):
        save_lora(tmp_path, "lora", weights, "float", {}, ["diffusers"])
    assert list(tmp_path.iterdir()) == []


SPELT = [
    "diffusion_model.joint_blocks.0.x_block.mlp.fc2",
    "lora_unet_joint_blocks_0_x_block_mlp_fc2",
    f"transformer.{PART}",
    f"base_model.model.{PART}",
    f"lora_transformer_{PART.replace('.', '_')}",
    f"lycoris_{PART.replace('.', '_')}",
    PART,
]


@pytest.mark.parametrize("base", SPELT)
@pytest.mark.parametrize(
    ("down", "up"),
    [
        (".lora_down.weight", ".lora_up.weight"),
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_A.default.weight", ".lora_B.default.weight"),
        (".lora.down.weight", ".lora.up.weight"),
        ("_lora.down.weight", "_lora.up.weight"),
        (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
        (".lora_A", ".lora_B"),
    ],
)
def test_every_spelling_of_other_trainers_is_understood(base, down, up):
    one = layer(0, 32, 128, alpha=2.0)
    tensors = {f"{base}{down}": one.down, f"{base}{up}": one.up, f"{base}.alpha": torch.tensor(2.0)}
    assert_same(understood(tensors, {}, "file").layers, {PART: one})


@pytest.mark.parametrize(("rslora", "scale"), [(False, 0.5), (True, 1.0)])
def test_alpha_in_pefts_configuration_counts(rslora, scale):
    one = layer(0, 32, 128)
    tensors = {f"transformer.{PART}.lora_A.weight": one.down, f"transformer.{PART}.lora_B.weight": one.up}
    config = {"transformer.r": 4, "transformer.lora_alpha": 2, "transformer.use_rslora": rslora}
    read = understood(tensors, {"lora_adapter_metadata": json.dumps(config)}, "file").layers[PART]
    torch.testing.assert_close(read.delta(), scale * one.up @ one.down)


def test_the_hashes_are_those_of_sd_scripts(tmp_path):
    """SHA-256 of all bytes after the header, and of 64 KiB from the second MiB of a file with only `ss_` metadata."""
    weights = {PART: layer(0, 6000, 200, rank=64)}
    metadata = {"ss_output_name": "dog", "modelspec.title": "Dog"}
    (path,) = save_lora(tmp_path, "lora", weights, "float", metadata, ["kohya"])
    tensors, said = read_safetensors(path)
    data = path.read_bytes()
    behind = data[8 + int.from_bytes(data[:8], "little") :]
    assert said["sshs_model_hash"] == hashlib.sha256(behind).hexdigest()
    assert said["modelspec.hash_sha256"] == f"0x{said['sshs_model_hash']}"
    save_file(tensors, tmp_path / "ss.safetensors", {"ss_output_name": "dog"})
    piece = (tmp_path / "ss.safetensors").read_bytes()[1 << 20 : (1 << 20) + (1 << 16)]
    assert piece and said["sshs_legacy_hash"] == hashlib.sha256(piece).hexdigest()[:8]


BASE = "lora_unet_joint_blocks_0_x_block_mlp_fc2"
NAN = torch.full((32, 4), float("nan"))
STRANGE = {
    "Flux": ({"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": torch.zeros(4, 4)}, "Flux"),
    "SDXL": ({"unet.down_blocks.0.attentions.0.weight": torch.zeros(4)}, "Stable Diffusion 1, 2 or XL"),
    "nothing": ({}, "contains no LoRA"),
    "DoRA": ({f"{BASE}.dora_scale": torch.ones(32, 1)}, "is a DoRA"),
    "half a LoHa": ({f"{BASE}.hada_w1_a": torch.ones(4, 4)}, "lacks 'hada_w1_b'"),
    "NaN": (kohya_file(**{f"{BASE}.lora_up.weight": NAN}), "NaN"),
    "NaN alpha": (kohya_file(**{f"{BASE}.alpha": torch.tensor(float("inf"))}), "NaN"),
    "ranks": (kohya_file(**{f"{BASE}.lora_up.weight": torch.zeros(32, 5)}), "incomplete"),
    "one half": ({f"{BASE}.lora_up.weight": torch.zeros(32, 4)}, "incomplete"),
    "whole numbers": (kohya_file(**{f"{BASE}.lora_up.weight": torch.zeros(32, 4).int()}), "shape"),
    "path": ({"../../etc/passwd.lora_up.weight": torch.zeros(4, 4)}, "not a LoRA for SD3"),
    "two layouts": (
        {**kohya_file(), **LAYOUTS["diffusers"].write({PART: layer(0, 32, 128)})},
        "mixes the layouts of kohya and diffusers",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_file_gets_a_sentence(name):
    tensors, said = STRANGE[name]
    with pytest.raises(ModelError, match=said):
        understood(tensors, {}, "file")


def test_a_larger_models_lora_is_reported(tmp_path):
    weights = {"transformer_blocks.37.ff.net.2": layer(0, 32, 128)}
    (path,) = save_lora(tmp_path, "lora", weights, "float", {}, ["kohya"])
    with pytest.raises(ModelError, match="block 37, but this model has blocks 0 to 2"):
        load_lora(path, BLOCKS)


def test_ten_megabytes_of_metadata_are_refused(tmp_path):
    save_file(kohya_file(), tmp_path / "big.safetensors", {"ss_comment": "x" * (10 << 20)})
    with pytest.raises(ModelError, match=r"10\.0 MiB of names and metadata"):
        read_lora(tmp_path / "big.safetensors")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"transformer.lora_alpha": [1]}', "no JSON", "[1, 2]"])
def test_hostile_json_in_pefts_configuration_is_refused(text):
    tensors = LAYOUTS["diffusers"].write({PART: layer(0, 32, 128)})
    with pytest.raises(ModelError, match="can't be read"):
        understood(tensors, {"lora_adapter_metadata": text}, "file")


def test_a_cut_file_is_refused(tmp_path: Path):
    (path,) = save_lora(tmp_path, "lora", {PART: layer(0, 32, 128)}, "float", {}, ["kohya"])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="can't be read"):
        read_lora(path)
