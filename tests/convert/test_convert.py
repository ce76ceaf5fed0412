"""purecc_convert.py as a user runs it: what it keeps, what it reports as lost, and mistakes that write nothing."""

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file

from library.adapters.files import read_lora, read_safetensors, save_lora
from library.adapters.network import LayerWeights
from library.adapters.uis.apply import delta, read_file
from library.convert.command import Request
from library.convert.command import convert as converted
from library.convert.merge import merged
from library.convert.resize import resized
from library.errors import ConfigError, ModelError
from library.models.sd3.layouts.known import LAYOUTS
from library.models.sd3.layouts.shape import INSIDE, shape_of
from library.models.sd3.layouts.ui_rules import RULES
from tests.helpers.loras import PART, assert_same, kohya_file, layer, network_on, whole_lora
from tests.helpers.tiny import tiny_transformer, velocity


def saved(folder: Path, name: str, weights, layout="kohya", precision="fp16", metadata=None) -> Path:
    return save_lora(folder, name, weights, precision, metadata or {}, [layout])[0]


@pytest.mark.parametrize("alpha", [4.0, 2.0])
@pytest.mark.parametrize("there", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_is_bit_for_bit(convert, tmp_path, layout, there, alpha):
    first = saved(tmp_path, "dog", whole_lora(alpha=alpha), layout, metadata={"modelspec.title": "Dog"})
    assert convert("--lora", first, "--to", there, "--output", tmp_path / "there.safetensors")[0] == 0
    code, said, _ = convert(
        "--lora", tmp_path / "there.safetensors", "--to", layout, "--output", tmp_path / "b.safetensors"
    )
    assert code == 0 and "Exact" in said
    assert_same(read_lora(tmp_path / "b.safetensors").layers, read_lora(first).layers)
    (one, metadata), (two, now) = read_safetensors(first), read_safetensors(tmp_path / "b.safetensors")
    assert set(one) == set(two) and all(torch.equal(one[key], two[key]) for key in one)
    assert metadata == now


def test_the_result_is_next_to_the_lora_under_its_layouts_name(convert, tmp_path):
    first = saved(tmp_path, "dog", {PART: layer(0, 32, 128)})
    for layout, name in (("diffusers", "dog_diffusers"), ("onetrainer", "dog_onetrainer")):
        code, said, _ = convert("--lora", first, "--to", layout)
        assert code == 0 and f"Saved {tmp_path / name}.safetensors" in said
    code, _, error = convert("--lora", tmp_path / "dog_diffusers.safetensors", "--to", "kohya")
    assert code == 2 and "dog.safetensors already exists" in error
    assert convert("--lora", tmp_path / "dog_diffusers.safetensors", "--to", "kohya", "--overwrite")[0] == 0


def test_rounding_is_reported_if_there_is_any(convert, tmp_path):
    first = saved(tmp_path, "dog", {PART: layer(0, 32, 128, alpha=3.0)})
    code, said, _ = convert("--lora", first, "--to", "diffusers")
    assert code == 0 and "Rounding changes updates" in said
    code, said, _ = convert("--lora", first, "--to", "diffusers", "--save_precision", "float", "--overwrite")
    assert code == 0 and "Exact" in said


def test_pefts_alpha_moves_from_the_metadata_into_the_weights(convert, tmp_path):
    one = layer(0, 32, 128)
    peft = {f"transformer.{PART}.lora_A.weight": one.down, f"transformer.{PART}.lora_B.weight": one.up}
    config = json.dumps({"transformer.r": 4, "transformer.lora_alpha": 1})
    save_file(peft, tmp_path / "peft.safetensors", {"lora_adapter_metadata": config})
    for layout in LAYOUTS:
        output = tmp_path / f"{layout}.safetensors"
        assert convert("--lora", tmp_path / "peft.safetensors", "--to", layout, "--output", output)[0] == 0
        file, metadata = read_file(output)
        assert "lora_adapter_metadata" not in metadata
        found = delta(RULES["ComfyUI"](file, metadata, shape_of(tiny_transformer())).patches[PART], file)
        torch.testing.assert_close(found, 0.25 * one.up @ one.down)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("strengths", "alphas"), [((1, 1), (4.0, 4.0)), ((1, 0.5), (4.0, 3.0)), ((-1, 2), (2.0, 4.0))])
def test_merging_adds_up_exactly(convert, tmp_path, layout, strengths, alphas):
    transformer = tiny_transformer()
    loras = []
    for seed, alpha in enumerate(alphas):
        network = network_on(transformer)
        loras.append(
            {
                name: layer(10 * seed + index, one.base.out_features, one.base.in_features, rank=2 + seed, alpha=alpha)
                for index, (name, one) in enumerate(network.layers.items())
            }
        )
        transformer = tiny_transformer()
    files = [saved(tmp_path, f"lora{index}", one, precision="float") for index, one in enumerate(loras)]
    output = tmp_path / "sum.safetensors"
    words = ["--lora_scale", *strengths, "--to", layout, "--output", output]
    code, said, _ = convert("--lora", *files, *words)
    assert code == 0 and "Exact" in said
    back = read_lora(output)
    for name, one in back.layers.items():
        meant = sum(strength * lora[name].delta() for strength, lora in zip(strengths, loras, strict=True))
        torch.testing.assert_close(one.delta(), meant, rtol=1e-5, atol=1e-4)
        assert one.rank == 5
    assert back.metadata["modelspec.merged_from"] == "lora0.safetensors, lora1.safetensors"


def test_loras_of_different_models_are_not_merged(convert, tmp_path):
    one = saved(tmp_path, "one", {PART: layer(0, 32, 128)}, metadata={"modelspec.architecture": "stable-diffusion-3"})
    two = saved(tmp_path, "two", {PART: layer(0, 32, 128)}, metadata={"modelspec.architecture": "flux"})
    code, _, error = convert("--lora", one, two, "--to", "kohya", "--output", tmp_path / "sum.safetensors")
    assert code == 2 and "different models" in error
    three = saved(tmp_path, "three", {PART: layer(0, 48, 128)})
    code, _, error = convert("--lora", one, three, "--to", "kohya", "--output", tmp_path / "sum.safetensors")
    assert code == 2 and "can't be merged" in error
    assert not (tmp_path / "sum.safetensors").exists()


def test_a_sum_of_loras_is_the_sum_of_their_updates_and_its_rank_that_of_their_ranks():
    one, two = layer(0, 32, 128, alpha=2.0), layer(1, 32, 128, rank=3)
    both = merged([{PART: one}, {PART: two, "another": two}], [0.5, -1.0])
    torch.testing.assert_close(both[PART].delta(), 0.5 * one.delta() - two.delta(), rtol=1e-5, atol=1e-5)
    assert both[PART].rank == 7 and torch.equal(both["another"].delta(), -two.delta())
    with pytest.raises(ModelError, match=f"{PART} is 32 x 128 in one and 32 x 64 in another"):
        merged([{PART: one}, {PART: layer(2, 32, 64)}], [1.0, 1.0])


def test_a_request_that_contradicts_itself_is_refused_before_a_file_is_read(tmp_path):
    nowhere = tmp_path / "nowhere.safetensors"
    with pytest.raises(ConfigError, match="--output"):
        converted(Request([nowhere, nowhere], [1.0, 1.0], to="kohya"))


def test_a_lower_rank_keeps_the_best_of_each_update_and_reports_the_rest():
    weights = whole_lora(rank=6, alpha=3.0)
    smaller, lost = resized(weights, 2)
    squares = [0.0, 0.0]
    for name, one in weights.items():
        values = torch.linalg.svdvals(one.delta().double())
        best = float(values[2:].square().sum())
        found = float((smaller[name].delta().double() - one.delta().double()).square().sum())
        assert smaller[name].rank == 2 and found == pytest.approx(best, rel=1e-3)
        squares = [squares[0] + best, squares[1] + float(values.square().sum())]
    assert lost.overall == pytest.approx(math.sqrt(squares[0] / squares[1]), rel=1e-3)
    assert lost.worst >= lost.overall


def test_a_rank_that_is_enough_loses_nothing():
    weights = whole_lora(rank=4)
    same, lost = resized(weights, 4)
    assert_same(same, weights)
    assert lost.overall == lost.worst == 0


def test_the_rank_of_a_dense_fused_layer_is_cut_as_a_whole(convert, tmp_path):
    base, dense = "lora_unet_joint_blocks_0_x_block_attn_qkv", layer(0, 96, 32, rank=8, alpha=8.0)
    tensors = {f"{base}.lora_down.weight": dense.down, f"{base}.lora_up.weight": dense.up}
    save_file(tensors, tmp_path / "sd.safetensors")
    output = tmp_path / "small.safetensors"
    code, said, _ = convert(
        "--lora", tmp_path / "sd.safetensors", "--network_dim", 3, "--to", "kohya", "--output", output
    )
    assert code == 0 and "Rank 3:" in said and "is lost" in said
    small = load_file(output)
    assert small[f"{base}.lora_down.weight"].shape == (3, 32)
    found = small[f"{base}.alpha"] / 3 * small[f"{base}.lora_up.weight"] @ small[f"{base}.lora_down.weight"]
    left = torch.linalg.svdvals(dense.delta() - found)
    torch.testing.assert_close(left[0], torch.linalg.svdvals(dense.delta())[3], rtol=1e-3, atol=1e-3)


def test_metadata_is_shown_harmlessly_and_extracted_whole(convert, tmp_path):
    metadata = {"title": "a\x1b[31mred\n" + "y" * 1000, "purecc": "{}"}
    path = saved(tmp_path, "dog", {PART: layer(0, 32, 128)}, metadata=metadata)
    code, said, _ = convert("--lora", path, "--metadata")
    assert code == 0 and "\x1b" not in said and "(1010 characters)" in said
    code, _, _ = convert("--lora", path, "--metadata", tmp_path / "said.json")
    assert code == 0 and json.loads((tmp_path / "said.json").read_text())["title"] == metadata["title"]


def test_the_text_encoders_part_can_be_left_out(convert, tmp_path):
    t5 = "text_encoder_3.encoder.block.0.layer.0.SelfAttention.q"
    path = saved(tmp_path, "dog", {PART: layer(0, 32, 128), t5: layer(1, 16, 16)})
    code, said, error = convert("--lora", path, "--to", "diffusers")
    assert code == 2 and "T5" in error and not (tmp_path / "dog_diffusers.safetensors").exists()
    code, said, _ = convert("--lora", path, "--to", "diffusers", "--transformer_only")
    assert code == 0 and "1 of them in the text encoders" in said
    assert set(read_lora(tmp_path / "dog_diffusers.safetensors").layers) == {PART}


def test_learned_vectors_that_are_lost_are_named(convert, tmp_path):
    tensors = {**kohya_file(), "bundle_emb.dog.clip_l": torch.zeros(1, 768)}
    save_file(tensors, tmp_path / "ot.safetensors")
    code, said, _ = convert("--lora", tmp_path / "ot.safetensors", "--to", "onetrainer")
    assert code == 0 and "1 learned vectors, such as bundle_emb.dog.clip_l" in said


# Checkpoints


def original_state(transformer, begin: str) -> dict[str, torch.Tensor]:
    """The tiny model's weights under the original model's names, assembled from diffusers' by their meaning."""
    found: dict[str, torch.Tensor] = {}
    parts: dict[str, list] = {}
    last = len(transformer.transformer_blocks) - 1
    for name, tensor in transformer.state_dict().items():
        module, _, kind = name.rpartition(".")
        pieces = module.split(".", 2)
        if pieces[0] == "transformer_blocks" and pieces[2] in INSIDE:
            original, third = INSIDE[pieces[2]]
            if pieces[2] == "norm1_context.linear" and int(pieces[1]) == last:
                tensor = torch.cat(tensor.chunk(2)[::-1])
            parts.setdefault(f"{begin}joint_blocks.{pieces[1]}.{original}.{kind}", []).append((third or 0, tensor))
        else:
            found[begin + name] = tensor
    return found | {
        name: torch.cat([one for _, one in sorted(some, key=lambda x: x[0])]) for name, some in parts.items()
    }


def half(tensors):
    return {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}


@pytest.fixture
def lora_on_blocks(tmp_path):
    network = network_on(
        tiny_transformer(), "student", targets=["to_q", "to_k", "to_v", "ff.net.2", "norm1_context.linear"]
    )
    return saved(tmp_path, "dog", network.weights("student"), precision="float")


def with_lora(lora: Path) -> torch.Tensor:
    """The tiny model's velocity with the LoRA as an adapter."""
    transformer = tiny_transformer()
    layers = read_lora(lora).layers
    network = network_on(transformer, targets=sorted({name.split(".", 2)[2] for name in layers}))
    network.load("lora", layers, "file")
    with network.using(["lora", "lora"]):
        return velocity(transformer)


def test_a_baked_folder_draws_as_the_adapter_does(convert, tmp_path, tiny_model, lora_on_blocks):
    output = tmp_path / "baked"
    code, said, error = convert("--lora", lora_on_blocks, "--bake", tiny_model, "--output", output)
    assert code == 0, error
    assert "Changed " in said
    baked = SD3Transformer2DModel.from_pretrained(output, subfolder="transformer")
    torch.testing.assert_close(velocity(baked), with_lora(lora_on_blocks), rtol=1e-3, atol=1e-4)
    assert (output / "vae" / "config.json").is_file() and (output / "model_index.json").is_file()
    original = SD3Transformer2DModel.from_pretrained(tiny_model, subfolder="transformer")
    assert torch.equal(velocity(original), velocity(tiny_transformer()))


@pytest.mark.parametrize("begin", ["model.diffusion_model.", ""])
def test_a_baked_checkpoint_has_every_update_in_its_place(convert, tmp_path, lora_on_blocks, begin):
    before = original_state(tiny_transformer(), begin) | {"first_stage_model.x": torch.randn(5)}
    save_file(before, tmp_path / "model.safetensors", {"modelspec.title": "tiny"})
    code, _, error = convert(
        "--lora", lora_on_blocks, "--bake", tmp_path / "model.safetensors", "--output", tmp_path / "out.safetensors"
    )
    assert code == 0, error
    after, metadata = read_safetensors(tmp_path / "out.safetensors")
    expected = tiny_transformer()
    state = expected.state_dict()
    for name, one in read_lora(lora_on_blocks).layers.items():
        state[f"{name}.weight"] += one.delta()
    expected.load_state_dict(state)
    meant = original_state(expected, begin) | {"first_stage_model.x": before["first_stage_model.x"]}
    assert set(after) == set(meant) and metadata["modelspec.title"] == "tiny"
    for name, tensor in meant.items():
        torch.testing.assert_close(after[name], tensor)


def test_what_a_coarse_checkpoint_swallows_is_measured(convert, tmp_path, lora_on_blocks):
    save_file(half(original_state(tiny_transformer(), "")), tmp_path / "model.safetensors")
    words = ["--bake", tmp_path / "model.safetensors", "--output", tmp_path / "out.safetensors", "--lora_scale", 0.001]
    code, said, _ = convert("--lora", lora_on_blocks, *words)
    lost = float(said.split("lost ")[1].split("%")[0])
    assert code == 0 and lost > 5
    assert {tensor.dtype for tensor in load_file(tmp_path / "out.safetensors").values()} == {torch.bfloat16}


UNFIT = {
    "8 bits": (lambda state: {name: one.to(torch.float8_e4m3fn) for name, one in state.items()}, "is in F8_E4M3"),
    "scaled 8 bits": (lambda state: {**state, "scaled_fp8": torch.zeros(1)}, "scaled 8-bit"),
    "a layer less": (
        lambda state: {name: one for name, one in state.items() if ".0.x_block.attn.q" not in name},
        "no layer",
    ),
    "another width": (lambda state: {name: torch.zeros(7, 7) for name in state}, "does not fit"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_an_unfit_checkpoint_is_refused_and_nothing_written(convert, tmp_path, lora_on_blocks, name):
    change, said = UNFIT[name]
    save_file(change(original_state(tiny_transformer(), "")), tmp_path / "model.safetensors")
    before = sorted(tmp_path.iterdir())
    words = ["--bake", tmp_path / "model.safetensors", "--output", tmp_path / "out.safetensors"]
    code, _, error = convert("--lora", lora_on_blocks, *words)
    assert code == 2 and said in error, error
    assert sorted(tmp_path.iterdir()) == before


# Mistakes


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def nan(path: Path) -> None:
    tensors = load_file(path)
    save_file({key: tensor * float("nan") for key, tensor in tensors.items()}, path)


def half_missing(path: Path) -> None:
    save_file({key: tensor for key, tensor in load_file(path).items() if "lora_up" not in key}, path)


def heavy(path: Path) -> None:
    save_file(load_file(path), path, {"x": "y" * (10 << 20)})


def other_model(path: Path) -> None:
    save_file({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": torch.zeros(4, 4)}, path)


def names_paths(path: Path) -> None:
    save_file({"../../../x.lora_up.weight": torch.zeros(4, 4), "../../../x.lora_down.weight": torch.zeros(4, 4)}, path)


def no_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 8 + b"{" * 100)


@pytest.mark.parametrize("harm", [cut, nan, half_missing, heavy, other_model, names_paths, no_header])
@pytest.mark.parametrize("words", [["--to", "diffusers"], ["--to", "kohya", "--network_dim", "2"]])
def test_bad_input_gets_a_sentence_and_leaves_nothing(convert, tmp_path, harm, words):
    path = saved(tmp_path, "dog", {PART: layer(0, 32, 128)})
    harm(path)
    code, said, error = convert("--lora", path, *words, "--output", tmp_path / "out.safetensors")
    assert code == 2 and said == "" and error.startswith("error: ") and "Traceback" not in error
    assert [one.name for one in tmp_path.iterdir()] == ["dog.safetensors"]


MISTAKES = {
    "nothing": ([], "--lora is needed"),
    "no action": (["--lora", "{lora}"], "nothing to do"),
    "two actions": (["--lora", "{lora}", "--to", "kohya", "--bake", "x"], "Give one of the two"),
    "numbers": (["--lora", "{lora}", "--to", "kohya", "--lora_scale", "1", "2"], "1 LoRAs, but 2 numbers"),
    "itself": (["--lora", "{lora}", "--to", "diffusers", "--output", "{lora}", "--overwrite"], "would overwrite"),
    "no such layout": (["--lora", "{lora}", "--to", "kohja"], "invalid choice"),
    "no such file": (
        ["--lora", "nowhere.safetensors", "--to", "kohya", "--output", "x.safetensors"],
        "nowhere.safetensors doesn't exist",
    ),
    "rank": (["--lora", "{lora}", "--to", "diffusers", "--network_dim", "0"], "at least 1"),
    "output of a merge": (["--lora", "{lora}", "{lora}", "--to", "kohya"], "--output is missing"),
    "ending": (["--lora", "{lora}", "--to", "kohya", "--output", "x.pt"], "must end in .safetensors"),
    "no checkpoint": (["--lora", "{lora}", "--bake", "nowhere", "--output", "x.safetensors"], "neither a"),
    "unknown option": (["--lora", "{lora}", "--too", "kohya"], 'Did you mean "to"?'),
    "not a number": (["--lora", "{lora}", "--to", "diffusers", "--lora_scale", "nan"], "ordinary numbers"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_sentence(convert, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, "dog", {PART: LayerWeights(torch.ones(4, 128), torch.ones(32, 4), 4.0)})
    words, said = MISTAKES[name]
    code, _, error = convert(*[word.format(lora=path) for word in words])
    assert code == 2 and said in error and "Traceback" not in error, error
    assert [one.name for one in tmp_path.iterdir()] == ["dog.safetensors"]


def test_a_folder_is_not_baked_into_itself(convert, tmp_path, tiny_model, lora_on_blocks):
    for output in (tiny_model, tiny_model / "baked", tiny_model.parent):
        code, _, error = convert("--lora", lora_on_blocks, "--bake", tiny_model, "--output", output)
        assert code == 2 and "error" in error
    assert (tiny_model / "model_index.json").is_file() and not (tiny_model / "baked").exists()
