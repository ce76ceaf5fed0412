"""LoRA files from other programs: names and kinds with known weights, and the commands that read them."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from library.adapters.changes import Kronecker, hadamard, kronecker
from library.adapters.extraction import extracted
from library.adapters.files import (
    SavedConcept,
    load_changes,
    load_lora,
    read_changes,
    read_lora,
    save_concepts,
    write_lora,
)
from library.adapters.linear import size_of
from library.adapters.network import AdapterNetwork, LayerWeights, check_fit
from library.adapters.reading import LARGEST_LAYER, understood
from library.convert.command import USUAL_RANK
from library.convert.fusing import Fusion, aggregate, fuse
from library.errors import ModelError
from library.evaluation.audit import run as audit
from library.models.sd3.layouts.known import LAYOUTS
from library.models.sd3.layouts.kohya import swapped
from tests.helpers.loras import layer, whole_lora
from tests.helpers.tiny import BLOCKS, tiny_transformer, velocity

FF = "transformer_blocks.0.ff.net.2"
PATCHES = "pos_embed.proj"
CLIP_L = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
CLIP_G = "text_encoder_2.text_model.encoder.layers.11.mlp.fc1"
T5 = "text_encoder_3.encoder.block.2.layer.0.SelfAttention.q"


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair(base: str, one: LayerWeights, down="lora_down", up="lora_up") -> dict[str, torch.Tensor]:
    halves = {f"{base}.{down}.weight": one.down, f"{base}.{up}.weight": one.up}
    return {**halves, f"{base}.alpha": torch.tensor(one.alpha)}


def known(name: str) -> LayerWeights:
    """A layer of the tiny model, with alpha half of the rank."""
    one = whole_lora(alpha=2.0).get(name)
    return one or layer(7, 16, 16, alpha=2.0)


NAMES = {
    "joint_blocks.0.x_block.mlp.fc2": FF,
    "joint_blocks.2.context_block.adaLN_modulation.1": "transformer_blocks.2.norm1_context.linear",
    "joint_blocks.0.x_block.attn.qkv.1": "transformer_blocks.0.attn.to_k",
    "transformer.joint_blocks.1.context_block.attn.qkv.2": "transformer_blocks.1.attn.add_v_proj",
    "transformer.final_layer.adaLN_modulation.1": "norm_out.linear",
    "final_layer.linear": "proj_out",
    "x_embedder.proj": PATCHES,
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "context_embedder": "context_embedder",
    "proj_out": "proj_out",
    "norm_out.linear": "norm_out.linear",
    "time_text_embed.text_embedder.linear_2": "time_text_embed.text_embedder.linear_2",
    f"transformer.base_model.model.{FF}": FF,
    f"lora_unet_{FF.replace('.', '_')}": FF,
    f"diffusion_model.{FF}": FF,
    "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj": CLIP_L,
    "text_encoders.clip_g.transformer.text_model.encoder.layers.11.mlp.fc1": CLIP_G,
    "text_encoders.t5xxl.transformer.encoder.block.2.layer.0.SelfAttention.q": T5,
    "clip_l.text_model.encoder.layers.0.self_attn.q_proj": CLIP_L,
    "t5.encoder.block.2.layer.0.SelfAttention.q": T5,
}
"""Names that other programs write, and the diffusers layer that each is."""


@pytest.mark.parametrize("base", NAMES)
def test_names_of_other_programs_are_read_with_their_weights(base):
    meant = known(NAMES[base])
    of_original = "transformer_blocks" not in base and base not in ("proj_out", "norm_out.linear")
    written = swapped(NAMES[base], meant) if of_original else meant
    found = understood(pair(base, written), {}, "file").layers
    assert set(found) == {NAMES[base]}
    torch.testing.assert_close(found[NAMES[base]].delta(), 0.5 * meant.up @ meant.down)


@pytest.mark.parametrize("adapter", ["default", "default_0", "dog"])
@pytest.mark.parametrize("begin", ["transformer.", "base_model.model.", "transformer.base_model.model."])
def test_any_adapters_name_of_peft_is_read(begin, adapter):
    one = known(FF)
    tensors = pair(f"{begin}{FF}", one, f"lora_A.{adapter}", f"lora_B.{adapter}")
    torch.testing.assert_close(understood(tensors, {}, "file").layers[FF].delta(), 0.5 * one.up @ one.down)


def test_two_adapters_in_one_file_are_not_taken_for_one():
    one = known(FF)
    tensors = pair(f"transformer.{FF}", one, "lora_A.one", "lora_B.one")
    tensors |= pair(f"transformer.{FF}", one, "lora_A.two", "lora_B.two")
    with pytest.raises(ModelError, match="two LoRAs"):
        understood(tensors, {}, "file")


BAD = [
    "diffusion_model.joint_blocks.0.x_block.mlp.fc9",
    "text_encoders.clip_l.transformer.nothing.of.clip",
    "lora_te1_nothing_of_clip",
    "transformer.transformer_blocks.0.attn.to_x",
    f"lora_unet_joint_blocks_{'9' * 5000}_x_block_mlp_fc2",
    f"transformer_blocks.{'9' * 5000}.ff.net.2",
]


@pytest.mark.parametrize("bad", BAD)
def test_among_good_and_bad_names_the_bad_one_is_named(bad):
    tensors = {**pair(f"diffusion_model.{FF}", known(FF)), **pair(bad, known(FF))}
    with pytest.raises(ModelError) as error:
        understood(tensors, {}, "file")
    assert bad[:100] in str(error.value) and FF not in str(error.value) and len(str(error.value)) < 400


OTHER = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector.weight": "DoRA",
    "diff_b": "biases",
    "w_norm": "norms",
    "oft_blocks": "OFT",
    "glora_a": "not part of any known kind of LoRA",
    "lora_B.bias": "biases",
    "lokr_t2": "convolutions",
}


@pytest.mark.parametrize("ending", OTHER)
def test_what_no_lora_can_do_is_refused_by_its_name_and_its_key(ending):
    key = f"diffusion_model.joint_blocks.0.x_block.mlp.fc2.{ending}"
    with pytest.raises(ModelError, match=OTHER[ending]) as error:
        understood({**pair("diffusion_model.joint_blocks.0.x_block.mlp.fc1", known(FF)), key: torch.ones(32)}, {}, "f")
    assert key in str(error.value)


# LoHa, LoKr, full changes: as ComfyUI reads them


def loha(base: str, outputs: int, inputs: int, rank: int, alpha: float):
    """Tensors, and the change that they stand for."""
    parts = [numbers(seed, *shape) for seed, shape in enumerate([(outputs, rank), (rank, inputs)] * 2)]
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    tensors = {f"{base}.{name}": part for name, part in zip(names, parts, strict=True)}
    meant = alpha / rank * (parts[0] @ parts[1]) * (parts[2] @ parts[3])
    return {**tensors, f"{base}.alpha": torch.tensor(alpha)}, meant


def lokr(base: str, shapes: tuple, alpha: float):
    """Tensors, and the change; a shape (out, in) is a whole factor, (out, rank, in) a product."""
    tensors, factors, rank = {f"{base}.alpha": torch.tensor(alpha)}, [], None
    for number, shape in enumerate(shapes, start=1):
        if len(shape) == 2:
            tensors[f"{base}.lokr_w{number}"] = whole = numbers(number, *shape)
        else:
            (outputs, rank, inputs), name = shape, f"{base}.lokr_w{number}"
            tensors[f"{name}_a"] = numbers(number, outputs, rank)
            tensors[f"{name}_b"] = numbers(number + 9, rank, inputs)
            whole = tensors[f"{name}_a"] @ tensors[f"{name}_b"]
        factors.append(whole)
    return tensors, (alpha / rank if rank else 1.0) * torch.kron(*factors)


LYCORIS = f"lycoris_{FF.replace('.', '_')}"
KINDS = {
    "LoHa, thin": loha(LYCORIS, 32, 128, 2, 1.0),
    "LoHa, as large as the weight": loha(LYCORIS, 32, 128, 8, 4.0),
    "LoKr, thin": lokr(LYCORIS, ((2, 4), (16, 2, 32)), 1.0),
    "LoKr, two products": lokr(LYCORIS, ((4, 1, 8), (8, 4, 16)), 3.0),
    "LoKr, whole": lokr(LYCORIS, ((4, 4), (8, 32)), 1e9),
    "LoKr of diffusers' name": lokr(f"transformer.{FF}", ((2, 2), (16, 64)), 1.0),
    "full change": ({f"diffusion_model.{FF}.diff": numbers(5, 32, 128)}, numbers(5, 32, 128)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_are_read_as_their_change(kind):
    tensors, meant = KINDS[kind]
    file = understood(tensors, {}, "file")
    (change,) = [*file.layers.values(), *file.whole.values()]
    assert change.shape == (32, 128) and [*file.layers, *file.whole] == [FF]
    torch.testing.assert_close(change.delta(), meant, rtol=1e-4, atol=1e-4)
    assert ("thin" in kind or "products" in kind) is bool(file.layers), "what is thin is exactly a LoRA"


@pytest.mark.parametrize("rank", [1, 5, 32, 99])
def test_the_closest_lora_of_a_kronecker_product_is_that_of_its_whole_matrix(rank):
    change = Kronecker(numbers(0, 4, 4), numbers(1, 8, 32), -0.7)
    found, plain = change.closest(rank), extracted(change.delta(), rank)
    torch.testing.assert_close(found.weights.delta(), plain.delta(), rtol=1e-3, atol=1e-4)
    values = torch.linalg.svdvals(change.delta().double()).square()
    assert found.lost == pytest.approx(float(values[rank:].sum()), rel=1e-4, abs=1e-9)
    assert found.total == pytest.approx(float(values.sum()), rel=1e-5)
    assert found.weights.rank == min(rank, 32)


def test_what_is_thin_becomes_exactly_a_lora_of_the_product_of_ranks():
    one, other = (numbers(0, 64, 2), numbers(1, 2, 64)), (numbers(2, 64, 3), numbers(3, 3, 64))
    made = hadamard(one, other, 0.5)
    assert made.rank == 6
    torch.testing.assert_close(made.delta(), 0.5 * (one[0] @ one[1]) * (other[0] @ other[1]), rtol=1e-4, atol=1e-4)
    small = kronecker(numbers(4, 4, 4), (numbers(5, 16, 2), numbers(6, 2, 16)), 2.0)
    assert small.rank == 8


def test_a_lokr_of_the_original_models_fused_layer_is_split_into_q_k_v():
    tensors, meant = lokr("lora_unet_joint_blocks_0_x_block_attn_qkv", ((4, 4), (24, 8)), 1.0)
    whole = understood(tensors, {}, "file").whole
    parts = [whole[f"transformer_blocks.0.attn.to_{kind}"].delta() for kind in "qkv"]
    torch.testing.assert_close(torch.cat(parts), meant)
    tensors, meant = lokr("lora_unet_final_layer_adaLN_modulation_1", ((4, 4), (16, 8)), 1.0)
    found = understood(tensors, {}, "file").whole["norm_out.linear"].delta()
    torch.testing.assert_close(found, torch.cat(meant.chunk(2)[::-1]))


DAMAGED = {
    "ranks": {f"{LYCORIS}.hada_w1_b": numbers(0, 3, 128)},
    "sizes": {f"{LYCORIS}.hada_w2_a": numbers(0, 16, 2)},
    "NaN": {f"{LYCORIS}.hada_w1_a": torch.full((32, 2), math.nan)},
    "infinite alpha": {f"{LYCORIS}.alpha": torch.tensor(math.inf)},
    "whole numbers": {f"{LYCORIS}.hada_w1_a": torch.ones(32, 2).int()},
    "empty": {f"{LYCORIS}.hada_w1_a": torch.zeros(0, 2)},
    "two kinds": {f"{LYCORIS}.lora_up.weight": torch.ones(32, 2)},
}


@pytest.mark.parametrize("harm", DAMAGED)
def test_a_damaged_loha_gets_a_sentence(harm):
    with pytest.raises(ModelError, match="lycoris_transformer_blocks_0"):
        understood({**KINDS["LoHa, thin"][0], **DAMAGED[harm]}, {}, "file")


def test_a_small_file_of_a_giant_layer_is_refused_before_it_is_made():
    side = math.isqrt(LARGEST_LAYER)
    lokr_of = {f"{LYCORIS}.lokr_w1": torch.ones(side, 3), f"{LYCORIS}.lokr_w2": torch.ones(2, side)}
    shapes = {"w1_a": (side + 1, 1), "w1_b": (1, side), "w2_a": (side + 1, 1), "w2_b": (1, side)}
    loha_of = {f"{LYCORIS}.hada_{part}": torch.ones(shape) for part, shape in shapes.items()}
    for tensors in (lokr_of, loha_of):
        with pytest.raises(ModelError, match="larger than any layer"):
            understood(tensors, {}, "file")


# Commands


def saved(folder, tensors, name="foreign"):
    save_file({key: one.contiguous() for key, one in tensors.items()}, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_convert_makes_the_closest_lora_and_reports_what_it_loses(convert, tmp_path, kind, layout):
    tensors, meant = KINDS[kind]
    output = tmp_path / "out.safetensors"
    words = ["--lora", saved(tmp_path, tensors), "--to", layout, "--output", output, "--save_precision", "float"]
    code, said, error = convert(*words)
    assert code == 0, error
    found = read_lora(output).layers[FF]
    torch.testing.assert_close(found.delta(), meant, rtol=1e-3, atol=1e-3 * float(meant.abs().max()))
    assert ("not plain LoRAs" in said) is not ("thin" in kind or "products" in kind)
    if "not plain LoRAs" in said:
        assert "0.00% of the update's length is lost" in said, "the layer's rank is no higher than what is usual"
    code, said, error = convert(*words, "--network_dim", 3, "--overwrite")
    small = read_lora(output).layers[FF]
    values = torch.linalg.svdvals(meant.double()).square()
    lost = math.sqrt(float(values[3:].sum() / values.sum()))
    assert code == 0 and small.rank == 3 and f"{lost:.2%} of the update's length is lost" in said
    assert float((small.delta() - meant).norm() / meant.norm()) == pytest.approx(lost, abs=1e-3)


def test_metadata_no_longer_says_that_it_is_a_lokr(convert, tmp_path):
    tensors, _ = KINDS["LoKr, whole"]
    said = {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "lokr"}', "ss_network_dim": "10000"}
    save_file(tensors, tmp_path / "lokr.safetensors", {**said, "modelspec.title": "Dog"})
    assert (
        convert("--lora", tmp_path / "lokr.safetensors", "--to", "kohya", "--output", tmp_path / "o.safetensors")[0]
        == 0
    )
    metadata = read_lora(tmp_path / "o.safetensors").metadata
    assert "ss_network_module" not in metadata and "ss_network_args" not in metadata
    assert metadata["ss_network_dim"] == "32" and metadata["modelspec.title"] == "Dog"


def test_without_a_rank_the_usual_one_is_taken(convert, tmp_path):
    base = "lycoris_transformer_blocks_0_norm1_linear"
    tensors, _ = lokr(base, ((2, 2), (USUAL_RANK, USUAL_RANK)), 1.0)
    code, said, error = convert(
        "--lora", saved(tmp_path, tensors), "--to", "kohya", "--output", tmp_path / "o.safetensors"
    )
    assert code == 0, error
    assert f"rank {USUAL_RANK}" in said and "LoKr" in said
    assert read_lora(tmp_path / "o.safetensors").layers["transformer_blocks.0.norm1.linear"].rank == USUAL_RANK


@pytest.mark.parametrize("kind", ["LoHa, as large as the weight", "LoKr, whole", "full change"])
def test_a_whole_change_is_baked_exactly_and_adds_up_with_a_lora(convert, tmp_path, tiny_model, kind):
    tensors, meant = KINDS[kind]
    lora = tmp_path / "lora.safetensors"
    write_lora(lora, {FF: known(FF)}, "kohya", torch.float32, {})
    words = ["--lora", saved(tmp_path, tensors), lora, "--lora_scale", 0.5, -1, "--bake", tiny_model]
    code, _, error = convert(*words, "--output", tmp_path / "baked")
    assert code == 0, error
    (before,) = (load_file(file) for file in (tiny_model / "transformer").glob("*.safetensors"))
    (after,) = (load_file(file) for file in (tmp_path / "baked" / "transformer").glob("*.safetensors"))
    change = after[f"{FF}.weight"] - before[f"{FF}.weight"]
    torch.testing.assert_close(change, 0.5 * meant - known(FF).delta(), rtol=1e-3, atol=1e-3)


def test_a_run_that_needs_a_lora_says_how_to_make_one(tmp_path):
    path = saved(tmp_path, KINDS["LoKr, whole"][0])
    with pytest.raises(ModelError, match="is a LoKr") as error:
        load_lora(path, BLOCKS)
    assert "purecc_convert.py" in str(error.value)
    assert load_lora(saved(tmp_path, KINDS["LoHa, thin"][0], "thin"), BLOCKS)[FF].rank == 4


# On the model: also layers outside the blocks, without text encoders


def everywhere() -> dict[str, LayerWeights]:
    """A LoRA on every layer of the tiny model, including those outside the blocks."""
    sizes = {name: size_of(one) for name, one in tiny_transformer().named_modules()}
    found = {}
    for seed, (name, size) in enumerate((name, size) for name, size in sizes.items() if size):
        one = layer(seed, *size, alpha=2.0)
        found[name] = LayerWeights(0.1 * one.down, 0.1 * one.up, one.alpha)
    return found


def test_layers_outside_the_blocks_act_as_their_sum_with_the_weights():
    changes = everywhere() | {
        "transformer_blocks.1.ff.net.2": Kronecker(0.1 * numbers(0, 4, 4), numbers(1, 8, 32), 0.5)
    }
    assert PATCHES in changes and "proj_out" in changes
    summed = tiny_transformer()
    state = summed.state_dict()
    for name, change in changes.items():
        state[f"{name}.weight"] += change.delta().view(state[f"{name}.weight"].shape)
    summed.load_state_dict(state)
    transformer = tiny_transformer()
    before, expected = velocity(transformer), velocity(summed)
    check_fit(transformer, changes, "file")
    network = AdapterNetwork.on(transformer, changes)
    network.load("foreign", changes, "file")
    with network.using(["foreign", "foreign"]):
        torch.testing.assert_close(velocity(transformer), expected, rtol=1e-3, atol=1e-4)
    with network.using(["foreign", None]):
        mixed = velocity(transformer)
    torch.testing.assert_close(mixed[0], expected[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mixed[1], before[1], rtol=1e-5, atol=1e-6)
    assert torch.equal(velocity(transformer), before) and (expected - before).abs().max() > 0.1
    network.set_strength("foreign", 0.0)
    with network.using(["foreign", "foreign"]):
        torch.testing.assert_close(velocity(transformer), before, rtol=1e-5, atol=1e-6)


def test_the_part_for_the_text_encoders_is_left_out_and_reported(tmp_path):
    path = tmp_path / "both.safetensors"
    write_lora(path, {FF: known(FF), CLIP_L: layer(1, 16, 16), T5: layer(2, 16, 16)}, "kohya", torch.float32, {})
    changes, said = load_changes(path, BLOCKS)
    assert set(changes) == {FF} and len(said) == 1 and "also changes the text encoders (2)" in said[0]
    write_lora(path, {CLIP_L: layer(1, 16, 16)}, "kohya", torch.float32, {})
    with pytest.raises(ModelError, match="changes only the text encoders"):
        load_changes(path, BLOCKS)


FILES = {
    "all layers and text encoders, OneTrainer": LAYOUTS["onetrainer"].write({**everywhere(), CLIP_L: layer(1, 16, 16)}),
    "one down for q, k, v, sd-scripts": pair(
        "lora_unet_joint_blocks_0_x_block_attn_qkv", layer(0, 96, 32, rank=4, alpha=2.0)
    ),
    "LoKr": KINDS["LoKr, whole"][0],
    "LoHa": KINDS["LoHa, thin"][0],
    "full change": KINDS["full change"][0],
}


@pytest.mark.parametrize("name", FILES)
def test_generate_draws_with_it(generate, tmp_path, name):
    code, said, error = generate(saved(tmp_path, FILES[name]))
    assert code == 0, error
    assert (tmp_path / "out" / "generated.png").is_file()
    assert ("are left out" in said + error) is ("text encoders" in name)


@pytest.mark.parametrize("name", FILES)
def test_audit_judges_it(tmp_path, tiny_model, name):
    (tmp_path / "audit.txt").write_text("a [V] dog city\na dog\na red house\n")
    words = [str(saved(tmp_path, FILES[name])), "--pretrained_model_name_or_path", str(tiny_model)]
    words += ["--trigger", "sks", "--class_word", "dog", "--audit_prompts", str(tmp_path / "audit.txt")]
    words += ["--cache_dir", str(tmp_path / "cache"), "--out", str(tmp_path / "audit"), "--mixed_precision", "no"]
    words += ["--resolution", "32", "--sample_steps", "2", "--sample_seeds", "1", "--t5xxl_max_token_length", "10"]
    audit(words)
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert found["loras"][0]["drift"]["unrelated"]["value"] > found["floors"]["rounding"]
    assert found["floors"]["strength 0"] == 0
    assert bool(found["left_out"]) is ("text encoders" in name)
    assert ("are left out" in (tmp_path / "audit" / "audit.md").read_text()) is ("text encoders" in name)


def test_a_layer_outside_the_blocks_of_another_size_is_named(tmp_path, generate):
    path = tmp_path / "wide.safetensors"
    write_lora(path, {"proj_out": layer(0, 99, 32)}, "diffusers", torch.float32, {})
    code, _, error = generate(path)
    assert code == 2 and "proj_out" in error and "99 x 32" in error and "another model" in error


def test_read_changes_reads_what_read_lora_reads(tmp_path):
    write_lora(tmp_path / "x.safetensors", {FF: known(FF)}, "kohya", torch.float32, {})
    assert read_changes(tmp_path / "x.safetensors").layers.keys() == read_lora(tmp_path / "x.safetensors").layers.keys()


def test_fusing_takes_layers_outside_the_blocks(plan_of, tmp_path):
    settings = plan_of().settings
    loras = []
    for name, strength in (("one", 1.0), ("two", -0.5)):
        loras.append(tmp_path / f"{name}.safetensors")
        layers = {key: LayerWeights(one.down, strength * one.up, one.alpha) for key, one in everywhere().items()}
        write_lora(loras[-1], layers, "kohya", torch.float32, {})
    fuse(settings, loras, [["a dog"], ["a house"]], (32, 32), Fusion(steps=1))
    found = load_lora(settings.output_dir / "tiny.safetensors", BLOCKS)
    assert set(found) == set(everywhere())
    patches = found[PATCHES]
    assert patches.shape == known(PATCHES).shape and patches.delta().any()


def test_weighing_block_by_block_refuses_layers_outside_the_blocks(plan_of, tmp_path):
    loras = []
    for name, trigger in (("one", "sks"), ("two", "ohwx")):
        loras.append(tmp_path / f"{name}.safetensors")
        write_lora(loras[-1], {"proj_out": known("proj_out")}, "kohya", torch.float32, {})
        concept = SavedConcept(name, trigger, "dog", "subject", "[V] dog", {"clip": 1, "t5": 1}, True, {"t5": 10})
        save_concepts(tmp_path / f"{name}_concept.safetensors", {name: torch.ones(BLOCKS, 2, 32)}, [concept])
    with pytest.raises(ModelError, match="changes layers outside the transformer blocks, such as proj_out"):
        aggregate(plan_of().settings, loras, "a sks dog", (32, 32))
