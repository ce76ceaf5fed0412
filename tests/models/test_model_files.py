"""Models from the files that people have: single files, separate files for parts, and errors for other files."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from library.config.groups import groups
from library.errors import ModelError
from library.models.interface import TextStates
from library.models.loading.model_files import FolderFiles
from library.models.loading.tensor_file import TensorFile
from library.models.loading.weights import PartWeights, Slot, fill, needed_by
from library.models.loading.what_file import what_is
from library.models.opening import open_model_files
from library.models.sd3 import single_file as single_files
from library.models.sd3.bundled_tokenizers import bundled_tokenizers
from library.models.sd3.checkpoint_layouts import PARTS
from library.models.sd3.modules import blank
from library.models.sd3.single_file import (
    CONFIGURATIONS,
    NAMED,
    SD3_MEDIUM,
    SD35_LARGE,
    SD35_MEDIUM,
    SETTINGS,
    Configuration,
    SingleFile,
    weights_in,
)
from library.models.sd3.text_encoders import encode_texts
from library.training.run import Run
from tests.helpers.runs import prepared
from tools.single_file import PREFIXES, single_file, transformer_for_comfyui, vae_for_comfyui


@pytest.fixture
def known(tiny_model, monkeypatch):
    """Allows single files with the tiny model."""
    monkeypatch.setattr(single_files, "CONFIGURATIONS", (SD35_MEDIUM, tiny_model))


def opened(path, **settings):
    return open_model_files(groups()["model"](pretrained_model_name_or_path=str(path), **settings))


def weights_of(files, part, dtype=torch.float32):
    return fill(blank(part, files.config(part)), files.weights(part), dtype, "cpu").state_dict()


def assert_same(one, other, dtype=torch.float32, parts=PARTS):
    for part in parts:
        ours, theirs = weights_of(one, part, dtype), weights_of(other, part, dtype)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name


def write_header(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "F16", width: int = 2) -> Path:
    """A file of the right size with these tensors, all zero, that takes no space on the disk."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = width * torch.Size(shape).numel()
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return path


def full_size_shapes(part: str, model: Path = SD35_MEDIUM) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a part of one of Stability's models, as in a single file."""
    weights = needed_by(blank(part, Configuration(model).config(part)))
    convert = {"transformer": transformer_for_comfyui, "vae": vae_for_comfyui}.get(part, dict)
    with torch.device("meta"):
        converted = convert({name: torch.empty(tensor.shape) for name, tensor in weights.items()})
    return {PREFIXES[part] + name: tuple(tensor.shape) for name, tensor in converted.items()}


# One file


def test_a_single_file_is_the_folder_to_the_bit(known, tiny_model, tmp_path):
    save_file(single_file(tiny_model), tmp_path / "all.safetensors")
    assert_same(opened(tmp_path / "all.safetensors"), FolderFiles(tiny_model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_in_the_file_or_in_the_model_are_one_rounding(known, tiny_model, tmp_path, dtype):
    """A cast before writing equals one after reading."""
    tensors = {name: tensor.to(dtype) for name, tensor in single_file(tiny_model).items()}
    save_file(tensors, tmp_path / "half.safetensors")
    assert_same(opened(tmp_path / "half.safetensors"), FolderFiles(tiny_model), dtype)


def test_parts_may_have_files_of_their_own(known, tiny_model, tmp_path):
    save_file(single_file(tiny_model, ["transformer"]), tmp_path / "model.safetensors")
    given = {}
    for part, setting in SETTINGS.items():
        given[setting] = str(tmp_path / f"{setting}.safetensors")
        weights = {
            name.removeprefix(PREFIXES[part]): tensor for name, tensor in single_file(tiny_model, [part]).items()
        }
        save_file({**weights, "logit_scale": torch.ones(1)} if "clip" in setting else weights, given[setting])
    apart, folder = opened(tmp_path / "model.safetensors", **given), FolderFiles(tiny_model)
    assert_same(apart, folder)
    for part in SETTINGS:
        assert apart.weights(part).shape("nothing") is None
    assert_same(opened(tiny_model, clip_l=given["clip_l"]), folder)


def test_names_without_prefix_and_diffusers_names_are_read_as_well(known, tiny_model, tmp_path):
    everything, apart = tmp_path / "all.safetensors", {}
    save_file(single_file(tiny_model), everything)
    for setting in SETTINGS.values():
        apart[setting] = str(everything)
    bare = {
        name.removeprefix(PREFIXES["transformer"]): t for name, t in single_file(tiny_model, ["transformer"]).items()
    }
    save_file(bare, tmp_path / "bare.safetensors")
    assert_same(opened(tmp_path / "bare.safetensors", **apart), FolderFiles(tiny_model))
    diffusers = tiny_model / "transformer" / "diffusion_pytorch_model.safetensors"
    apart["vae"] = str(tiny_model / "vae" / "diffusion_pytorch_model.safetensors")
    apart["t5xxl"] = str(tiny_model / "text_encoder_3" / "model.safetensors")
    assert_same(opened(diffusers, **apart), FolderFiles(tiny_model))


def test_training_from_a_single_file_gives_the_same_lora_and_finds_the_folders_caches(
    known, plan_of, tiny_model, tmp_path, monkeypatch
):
    file = tmp_path / "tiny-all.safetensors"
    save_file(single_file(tiny_model), file)
    run = Run(plan_of())
    run.train()
    lora = load_file(run.folder / "tiny.safetensors")
    parts_read, read = set(), TensorFile.read
    monkeypatch.setattr(TensorFile, "read", lambda this, key: parts_read.add(key.split(".")[0]) or read(this, key))
    run = prepared(plan_of(pretrained_model_name_or_path=str(file), replay_images=0, overwrite=True))
    assert parts_read == {"model"}
    monkeypatch.undo()
    monkeypatch.setattr(single_files, "CONFIGURATIONS", (SD35_MEDIUM, tiny_model))
    run = Run(plan_of(pretrained_model_name_or_path=str(file), overwrite=True))
    run.train()
    again = load_file(run.folder / "tiny.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in lora.items())
    assert f'pretrained_model_name_or_path = "{file}"' in (run.folder / "config.toml").read_text()


# 8 bits


@pytest.mark.parametrize("marks", [("scaled_fp8", ".scale_weight"), (None, ".weight_scale")])
@pytest.mark.parametrize("rows", [False, True])
def test_scaled_fp8_is_multiplied_by_its_scale(known, tiny_model, tmp_path, marks, rows):
    """Also if rows of one tensor belong to three weights, with a separate scale for each row."""
    marker, scale_name = marks
    tensors, expected = {}, {}
    for name, tensor in single_file(tiny_model).items():
        if not name.startswith((PREFIXES["transformer"], PREFIXES["text_encoder_3"])) or tensor.ndim != 2:
            tensors[name] = expected[name] = tensor
            continue
        size = tensor.abs().amax(1, keepdim=True) if rows else tensor.abs().max()
        scale = size / 400
        tensors[name] = (tensor / scale).to(torch.float8_e4m3fn)
        tensors[name.removesuffix(".weight") + scale_name] = scale
        tensors[name.removesuffix(".weight") + ".scale_input"] = torch.ones(())
        expected[name] = tensors[name].float() * scale
    if marker:
        tensors[PREFIXES["transformer"] + marker] = torch.empty(0, dtype=torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "scaled.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, tmp_path / "expected.safetensors")
    scaled, plain = opened(tmp_path / "scaled.safetensors"), opened(tmp_path / "expected.safetensors")
    for dtype in (torch.float32, torch.bfloat16):
        assert_same(scaled, plain, dtype)
    ids, cpu = [torch.tensor([[5, 3, 1]])] * 3, torch.device("cpu")
    (ours,), (theirs,) = (encode_texts(files, ids, torch.float32, cpu) for files in (scaled, plain))
    assert torch.equal(ours.context, theirs.context)


def test_plain_fp8_is_cast(known, tiny_model, tmp_path):
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in single_file(tiny_model).items()}
    save_file(tensors, tmp_path / "fp8.safetensors")
    save_file({name: tensor.float() for name, tensor in tensors.items()}, tmp_path / "cast.safetensors")
    assert_same(opened(tmp_path / "fp8.safetensors"), opened(tmp_path / "cast.safetensors"), torch.bfloat16)


def test_other_quantisations_are_refused(known, tiny_model, tmp_path):
    tensors = single_file(tiny_model)
    scale = "model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight_scale"
    save_file({**tensors, scale: torch.ones(3, 2)}, tmp_path / "blocks.safetensors")
    with pytest.raises(ModelError, match="quantised in blocks"):
        weights_of(opened(tmp_path / "blocks.safetensors"), "transformer")
    name = "model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight"
    save_file({**tensors, name: tensors[name].to(torch.int8)}, tmp_path / "int8.safetensors")
    with pytest.raises(ModelError, match=r"fc1\.weight quantised to I8"):
        weights_of(opened(tmp_path / "int8.safetensors"), "transformer")


# Mapped


def weights_at(path: Path, weight: torch.Tensor, shift: int = 0) -> PartWeights:
    """A file with one weight, which begins `shift` bytes after a multiple of 64."""
    name = {torch.float32: "F32", torch.bfloat16: "BF16"}[weight.dtype]
    entry = {"dtype": name, "shape": list(weight.shape), "data_offsets": [0, weight.nbytes]}
    text = json.dumps({"weight": entry}).encode()
    text += b" " * ((shift - 8 - len(text)) % 64)
    path.write_bytes(struct.pack("<Q", len(text)) + text + weight.view(torch.uint8).numpy().tobytes())
    return PartWeights(str(path), {"weight": (TensorFile(path), Slot("weight"))})


@pytest.mark.parametrize(
    ("dtype", "shift", "mapped"), [("bfloat16", 8, True), ("float32", 0, True), ("float32", 8, False)]
)
def test_a_weight_whose_type_fits_is_the_file_itself(tmp_path, dtype, shift, mapped):
    wanted = torch.randn(8, 8).to(getattr(torch, dtype))
    weights = weights_at(tmp_path / "one.safetensors", wanted, shift)
    one, two = (weights.read("weight", wanted.dtype) for _ in range(2))
    assert torch.equal(one, wanted) and (one.data_ptr() == two.data_ptr()) is mapped
    assert weights.read("weight", torch.float64).data_ptr() != weights.read("weight", torch.float64).data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3])
def test_where_a_file_has_a_weight_changes_no_bit_of_a_product(tmp_path, dtype, rows):
    weight, x = torch.randn(64, 1536).to(dtype), torch.randn(rows, 1536).to(dtype)
    for shift in range(0, 64, 8):
        found = weights_at(tmp_path / f"{shift}.safetensors", weight, shift).read("weight", dtype)
        assert torch.equal(nn.functional.linear(x, found), nn.functional.linear(x, weight)), shift


# Full size


def test_the_full_size_file_has_the_names_and_shapes_of_stable_diffusion_3_5_medium(tmp_path):
    shapes = {name: shape for part in PARTS for name, shape in full_size_shapes(part).items()}
    begin = "model.diffusion_model."
    assert shapes[begin + "pos_embed"] == (1, 147456, 1536)
    assert shapes[begin + "joint_blocks.12.x_block.adaLN_modulation.1.weight"] == (9 * 1536, 1536)
    assert shapes[begin + "joint_blocks.13.x_block.adaLN_modulation.1.weight"] == (6 * 1536, 1536)
    assert shapes[begin + "joint_blocks.12.x_block.attn2.qkv.weight"] == (3 * 1536, 1536)
    assert begin + "joint_blocks.13.x_block.attn2.qkv.weight" not in shapes
    assert shapes[begin + "joint_blocks.23.context_block.adaLN_modulation.1.weight"] == (2 * 1536, 1536)
    assert begin + "joint_blocks.23.context_block.mlp.fc1.weight" not in shapes
    assert shapes["first_stage_model.encoder.mid.attn_1.q.weight"] == (512, 512, 1, 1)
    assert shapes["first_stage_model.decoder.up.3.upsample.conv.weight"] == (512, 512, 3, 3)
    assert shapes["text_encoders.t5xxl.transformer.shared.weight"] == (32128, 4096)

    def count(prefix):
        return sum(torch.Size(shape).numel() for name, shape in shapes.items() if name.startswith(prefix))

    assert count(begin) == 2_243_171_520 + 226_492_416
    assert count("first_stage_model.") == 83_819_683
    assert [count(PREFIXES[part]) for part in PARTS[2:]] == [123_650_304, 694_659_840, 4_762_310_656]
    del shapes["text_encoders.clip_l.transformer.text_projection.weight"]
    file = write_header(tmp_path / "sd3.5_medium.safetensors", shapes)
    assert what_is(TensorFile(file).entries) == "Stable Diffusion 3.5 Medium"
    files = SingleFile(file, (), CONFIGURATIONS)
    assert files.config("transformer")["dual_attention_layers"] == list(range(13))
    clip = files.weights("text_encoder")
    assert torch.equal(clip.read("text_projection.weight", torch.bfloat16), torch.eye(768, dtype=torch.bfloat16))
    vae = files.weights("vae")
    assert vae.shape("encoder.mid_block.attentions.0.to_q.weight") == (512, 512, 1, 1)


@pytest.mark.parametrize(
    ("model", "blocks", "width", "weights"),
    [(SD35_LARGE, 38, 2432, 8_056_627_520), (SD3_MEDIUM, 24, 1536, 2_028_328_000)],
    ids=["3.5 Large", "3 Medium"],
)
def test_the_siblings_files_are_told_and_opened(model, blocks, width, weights, tmp_path):
    """Different numbers of blocks and widths, no second attention; encoders, VAE and tokenizers as in 3.5 Medium."""
    shapes = {name: shape for part in PARTS for name, shape in full_size_shapes(part, model).items()}
    begin = "model.diffusion_model."
    table = shapes[begin + "pos_embed"]
    assert table == (1, 192 * 192, width)
    assert shapes[f"{begin}joint_blocks.{blocks - 1}.context_block.adaLN_modulation.1.weight"] == (2 * width, width)
    assert not any(".attn2." in name for name in shapes)
    assert any(".ln_q." in name for name in shapes) == (model == SD35_LARGE)
    numbers = sum(torch.Size(shape).numel() for name, shape in shapes.items() if name.startswith(begin))
    assert numbers - torch.Size(table).numel() == weights
    file = write_header(tmp_path / "whole.safetensors", shapes)
    assert NAMED[what_is(TensorFile(file).entries)] == model
    files = opened(file)
    assert files.config("transformer")["num_layers"] == blocks
    assert files.config("vae") == FolderFiles(SD35_MEDIUM).config("vae")
    assert [len(one) for one in files.tokenizers()] == [49408, 49408, 32100]


@pytest.mark.parametrize("name", [name for name, model in NAMED.items() if model != SD35_MEDIUM])
def test_a_siblings_file_that_is_not_whole_is_told_by_its_own_name(name, tmp_path):
    shapes = full_size_shapes("transformer", NAMED[name])
    shapes["model.diffusion_model.y_embedder.mlp.0.weight"] = (7, 2048)
    with pytest.raises(ModelError, match=f"does not fit {name}: .* is 7 x 2048 instead of"):
        opened(write_header(tmp_path / "other.safetensors", shapes))


def test_clip_ls_own_projection_is_left_out_at_full_size(tmp_path):
    shapes = {name.removeprefix(PREFIXES["text_encoder"]): s for name, s in full_size_shapes("text_encoder").items()}
    file = TensorFile(write_header(tmp_path / "clip_l.safetensors", shapes))
    weights = weights_in(file, "text_encoder", FolderFiles(SD35_MEDIUM).config("text_encoder"))
    assert torch.equal(weights.read("text_projection.weight", torch.float32), torch.eye(768))


def test_the_small_bundled_model_is_read_from_a_single_file(tmp_path):
    folder = CONFIGURATIONS[-1]
    save_file(single_file(folder), tmp_path / "pocket.safetensors")
    assert_same(opened(tmp_path / "pocket.safetensors"), FolderFiles(folder), torch.float16)
    for ours, theirs in zip(
        opened(folder).tokenizers(), opened(tmp_path / "pocket.safetensors").tokenizers(), strict=True
    ):
        assert ours("a red dog").input_ids == theirs("a red dog").input_ids


# The encoders


def test_of_t5_one_layer_at_a_time_is_in_memory_and_all_are_the_pipelines(tiny_model):
    files, seen = FolderFiles(tiny_model), []
    ids = torch.randint(0, 90, (20, 10), generator=torch.Generator().manual_seed(0))

    def watching(layers):
        for layer in layers:
            yield layer
            seen.append([all(weight.is_meta for weight in other.parameters()) for other in layers])

    states = encode_texts(files, [ids % 10, ids % 10, ids], torch.float32, torch.device("cpu"), watching)
    assert seen and all(all(gone) for gone in seen)
    from transformers import T5EncoderModel

    theirs = T5EncoderModel.from_pretrained(tiny_model / "text_encoder_3")(ids).last_hidden_state
    torch.testing.assert_close(torch.stack([one.context[10:] for one in states]), theirs)
    assert isinstance(states[0], TextStates) and len(states) == 20


def test_the_bundled_tokenizers_give_the_known_numbers():
    clip_l, clip_g, t5 = bundled_tokenizers(SD35_MEDIUM / "tokenizers")
    assert clip_l("sks").input_ids == [49406, 48136, 49407] and len(clip_l("ohwx").input_ids) == 3
    assert t5("sks").input_ids == [3, 7, 157, 7, 1] and len(t5("ohwx").input_ids) == 6
    assert t5("<v>").input_ids[1] == 2
    text = "a photo of a naïve café, 12 it's"
    assert clip_l(text).input_ids == clip_g(text).input_ids
    padded = [one("a", padding="max_length", max_length=6).input_ids for one in (clip_l, clip_g, t5)]
    assert padded == [[49406, 320, 49407, 49407, 49407, 49407], [49406, 320, 49407, 0, 0, 0], [3, 9, 1, 0, 0, 0]]
    assert (clip_l.model_max_length, len(clip_l), len(t5)) == (77, 49408, 32100)
    text = "a photo of a sks dog"
    offsets = t5(text, return_offsets_mapping=True)["offset_mapping"]
    assert [text[begin:end] for begin, end in offsets if begin < 16 and end > 13] == ["s", "s", "k", "s"]


# Errors


def test_every_missing_part_is_named_with_its_setting(known, tiny_model, tmp_path):
    save_file(single_file(tiny_model, ["transformer", "text_encoder"]), tmp_path / "model.safetensors")
    with pytest.raises(ModelError) as error:
        opened(tmp_path / "model.safetensors")
    for said in (
        "vae = FILE",
        "clip_g = FILE",
        "t5xxl = FILE",
        "t5xxl_fp16.safetensors",
        "models/vae",
        "huggingface.co",
    ):
        assert said in str(error.value)
    assert "clip_l = FILE" not in str(error.value)


BLOCK = "joint_blocks.{}.x_block.attn.qkv.weight"
WRONG = {
    "Stable Diffusion XL": ["conditioner.embedders.1.model.positional_embedding"],
    "Stable Diffusion 1.5": ["cond_stage_model.transformer.text_model.final_layer_norm.weight"],
    "FLUX": ["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"],
    "with 30 blocks": [f"model.diffusion_model.{BLOCK.format(index)}" for index in range(30)],
    "a LoRA": ["lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight"],
    "a U-Net": ["model.diffusion_model.input_blocks.0.0.weight"],
    "an unknown kind of file": ["some.weight"],
    "CLIP-G is": ["text_model.encoder.layers.30.mlp.fc1.weight", "text_model.encoder.layers.0.mlp.fc1.weight"],
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_called_by_its_name(what, tmp_path):
    file = write_header(tmp_path / "wrong.safetensors", dict.fromkeys(WRONG[what], (2, 2)))
    with pytest.raises(ModelError) as error:
        opened(file)
    assert what.removesuffix(" is") in str(error.value) and "Stable Diffusion 3.5 Medium" in str(error.value)
    assert ("clip_g = FILE" in str(error.value)) == (what == "CLIP-G is") != ("models/checkpoints" in str(error.value))


def test_a_text_encoder_in_the_place_of_another_is_reported(known, tiny_model, tmp_path):
    save_file(single_file(tiny_model), tmp_path / "all.safetensors")
    for setting, said in {"clip_l": "is a T5 text encoder instead of CLIP-L", "vae": "is a T5 text encoder"}.items():
        with pytest.raises(ModelError, match=said):
            opened(tmp_path / "all.safetensors", **{setting: str(tiny_model / "text_encoder_3" / "model.safetensors")})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", r"t5xxl: the file .*nowhere"),
        ("folder", "t5xxl: .* is a folder"),
        ("gguf", "t5xxl: .*GGUF"),
    ],
)
def test_a_part_that_is_not_a_file_is_reported_with_its_setting(tiny_model, tmp_path, name, said):
    (tmp_path / "folder").mkdir()
    (tmp_path / "gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match=said):
        opened(tiny_model, t5xxl=str(tmp_path / name))


BEGINNINGS = {
    "a pickled checkpoint": b"PK\x03\x04" + bytes(100),
    "a web page": b"\n<!DOCTYPE html><html>" + bytes(100),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "a GGUF file": b"GGUF" + bytes(100),
    "is empty": b"",
    "not a safetensors file": b"\xff" * 100,
    "cut off inside its header": struct.pack("<Q", 500) + b'{"a": ',
    "header is invalid": struct.pack("<Q", 4) + b"nope" + bytes(100),
    "contains no tensors": struct.pack("<Q", 2) + b"{}",
}


@pytest.mark.parametrize("said", BEGINNINGS)
def test_what_is_not_a_safetensors_file_is_reported(said, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(BEGINNINGS[said])
    with pytest.raises(ModelError, match=said):
        opened(tmp_path / "model.safetensors")


def header(**tensors) -> bytes:
    text = json.dumps(
        {name: {"dtype": dtype, "shape": shape, "data_offsets": at} for name, (dtype, shape, at) in tensors.items()}
    ).encode()
    return struct.pack("<Q", len(text)) + text


DAMAGED = {
    "4 of ": header(a=("F32", [2], [0, 8])) + bytes(4),
    "3 extra bytes at its end": header(a=("F32", [2], [0, 8])) + bytes(11),
    "b is in the wrong place": header(a=("F32", [2], [0, 8]), b=("F32", [2], [4, 12])) + bytes(12),
    "a is in the wrong place": header(a=("F32", [2], [8, 16])) + bytes(16),
    "its header is invalid": header(a=("F32", [3], [0, 8])) + bytes(8),
    "header is invalid": header(a=("F32", [-2], [0, -8])) + bytes(8),
    "header is .nvalid": header(a=("X99", [2], [0, 8])) + bytes(8),
}


@pytest.mark.parametrize("said", DAMAGED)
def test_damage_is_reported_before_anything_is_read(said, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(DAMAGED[said])
    with pytest.raises(ModelError, match=said):
        TensorFile(tmp_path / "model.safetensors")


def test_a_weight_that_is_missing_or_misshapen_is_named(known, tiny_model, tmp_path):
    shapes = full_size_shapes("transformer")
    del shapes["model.diffusion_model.joint_blocks.7.x_block.mlp.fc1.weight"]
    with pytest.raises(ModelError, match=r"lacks joint_blocks\.7\.x_block\.mlp\.fc1\.weight"):
        opened(write_header(tmp_path / "lacking.safetensors", shapes))
    shapes = {**full_size_shapes("transformer"), "model.diffusion_model.y_embedder.mlp.0.weight": (1536, 2816)}
    with pytest.raises(ModelError, match="1536 x 2816 instead of 1536 x 2048"):
        opened(write_header(tmp_path / "other.safetensors", shapes))
    shapes = {**full_size_shapes("transformer"), "model.diffusion_model.new_thing.weight": (2, 2)}
    with pytest.raises(ModelError, match=r"contains model\.diffusion_model\.new_thing\.weight, which"):
        opened(write_header(tmp_path / "more.safetensors", shapes))


def test_a_folder_with_a_missing_shard_says_what_it_lacks(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    file = tmp_path / "model" / "text_encoder_3" / "model.safetensors"
    weights = load_file(file)
    weights.pop("encoder.final_layer_norm.weight")
    save_file(weights, file)
    with pytest.raises(ModelError, match=r"encoder\.final_layer_norm\.weight is missing"):
        encode_texts(opened(tmp_path / "model"), [torch.ones(1, 3, dtype=int)] * 3, torch.float32, torch.device("cpu"))
