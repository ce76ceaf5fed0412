"""Adapters on one set of frozen weights."""

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file

from library.adapters.files import load_lora, save_lora
from library.adapters.linear import route_of
from library.adapters.network import AdapterNetwork, LayerWeights
from library.adapters.reading import understood
from library.errors import ConfigError, ModelError
from library.models.sd3.layouts.kohya import to_kohya
from library.models.sd3.settings import ATTENTION
from library.per_pass import recompute_contexts
from tests.helpers.loras import all_layers, network_on
from tests.helpers.tiny import BLOCKS, inputs, tiny_transformer, velocity

LOOKS_AT_NOTHING = f"transformer_blocks.{BLOCKS - 1}.attn.add_q_proj"
"""The last block throws its text stream away, so its text queries have no effect, in the real model, too."""


def test_every_attention_projection_of_both_streams_has_one():
    names = set(network_on(tiny_transformer()).layers)
    first = {name.split(".", 2)[2] for name in names if name.startswith("transformer_blocks.0.")}
    image = {"to_q", "to_k", "to_v", "to_out.0"}
    text = {"add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"}
    assert first == {f"attn.{one}" for one in image | text} | {f"attn2.{one}" for one in image}
    assert len(names) == 12 + 12 + 7  # the last block has no attn2 and no to_add_out


def test_adapters_off_equal_the_pretrained_model_bit_for_bit():
    before = velocity(tiny_transformer())
    transformer = tiny_transformer()
    network = network_on(transformer, "student")
    with network.using(["student", "student"]):
        assert not torch.equal(velocity(transformer), before)
    assert torch.equal(velocity(transformer), before)
    with network.using([None, None]):
        assert torch.equal(velocity(transformer), before)


def test_a_fresh_adapter_changes_nothing():
    transformer = tiny_transformer()
    network = AdapterNetwork({"transformer_blocks": transformer.transformer_blocks}, ATTENTION)
    network.add("student", 4, 4.0, torch.Generator().manual_seed(0))
    before = velocity(transformer)
    with network.using(["student", "student"]):
        torch.testing.assert_close(velocity(transformer), before)


def test_each_row_of_a_batch_uses_its_own_adapter():
    transformer, rows = tiny_transformer(), inputs(4)
    network = network_on(transformer, "a", "b")
    adapters = ["a", None, "b", "b"]
    with network.using(adapters):
        mixed = velocity(transformer, **rows)
    for index, adapter in enumerate(adapters):
        with network.using([adapter]):
            alone = velocity(transformer, **{name: value[index : index + 1] for name, value in rows.items()})
        torch.testing.assert_close(mixed[index : index + 1], alone, rtol=1e-4, atol=1e-5)


def test_a_route_joins_rows_that_stand_together():
    assert route_of(["a", "a", None, "a"]).rows == ((slice(0, 2), "a"), (slice(2, 3), None), (slice(3, 4), "a"))


def checkpointed(transformer: SD3Transformer2DModel, network: AdapterNetwork) -> None:
    """Turns on checkpointing the way the model does."""
    from torch.utils.checkpoint import checkpoint

    transformer.enable_gradient_checkpointing(
        lambda block, *args: checkpoint(
            block, *args, use_reentrant=False, context_fn=recompute_contexts([network.route])
        )
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_switching_the_adapter_before_backward_leaves_the_students_gradient(checkpointing):
    """With checkpointing, blocks run again in backward; another adapter's pass in between must not interfere."""
    gradients = []
    for switch in (False, True):
        transformer = tiny_transformer()
        network = network_on(transformer, "student", "extractor")
        network.train_only(["student"])
        if checkpointing:
            checkpointed(transformer, network)
        with network.using(["student", "student"]):
            out = velocity(transformer)
        if switch:
            with torch.no_grad(), network.using(["extractor", "extractor"]):
                velocity(transformer)
        out.square().sum().backward()
        assert all(weight.grad is None for weight in network.parameters("extractor"))
        gradients.append(
            {
                name: layer.adapters["student"].down.grad
                for name, layer in network.layers.items()
                if name != LOOKS_AT_NOTHING
            }
        )
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0].values())
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_checkpointing_does_not_change_the_gradient():
    gradients = []
    for checkpointing in (False, True):
        transformer = tiny_transformer()
        network = network_on(transformer, "student")
        if checkpointing:
            checkpointed(transformer, network)
        with network.using(["student", None]):
            velocity(transformer).square().sum().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in network.parameters("student")]))
    torch.testing.assert_close(*gradients)


def test_a_target_without_a_match_is_named():
    with pytest.raises(ConfigError, match='no linear layer of the model ends in "to_qq"'):
        AdapterNetwork({"transformer_blocks": tiny_transformer().transformer_blocks}, ["to_q", "to_qq"])


def weights_of(targets=ATTENTION) -> dict[str, LayerWeights]:
    return network_on(tiny_transformer(), "student", targets=targets).weights("student")


@pytest.mark.parametrize("targets", [ATTENTION, all_layers(), ["to_q"], ["to_k", "add_v_proj"]])
def test_kohyas_layout_converts_back_to_the_same_update(targets):
    weights = weights_of(targets)
    back = understood(to_kohya(weights), {}, "file").layers
    for name, layer in weights.items():
        torch.testing.assert_close(back[name].delta(), layer.delta(), rtol=0, atol=1e-6)
    assert all(layer.delta().abs().max() == 0 for name, layer in back.items() if name not in weights)


def test_kohyas_layout_of_all_attention_converts_back_bit_for_bit():
    weights = weights_of()
    back = understood(to_kohya(weights), {}, "file").layers
    assert set(back) == set(weights)
    for name, layer in weights.items():
        assert torch.equal(back[name].down, layer.down) and torch.equal(back[name].up, layer.up), name
        assert back[name].alpha == layer.alpha


def test_kohyas_fused_update_is_that_of_the_stacked_layer():
    weights = weights_of()
    tensors = to_kohya(weights)
    base = "lora_unet_joint_blocks_1_context_block_attn_qkv"
    down, up = tensors[f"{base}.lora_down.weight"], tensors[f"{base}.lora_up.weight"]
    fused = tensors[f"{base}.alpha"] / len(down) * up @ down
    parts = [f"transformer_blocks.1.attn.add_{kind}_proj" for kind in "qkv"]
    torch.testing.assert_close(fused, torch.cat([weights[part].delta() for part in parts]))


def test_kohyas_last_context_modulation_has_its_halves_swapped():
    weights = weights_of(["norm1_context.linear"])
    tensors = to_kohya(weights)
    for block, swapped in ((0, False), (BLOCKS - 1, True)):
        ours = weights[f"transformer_blocks.{block}.norm1_context.linear"].up
        theirs = tensors[f"lora_unet_joint_blocks_{block}_context_block_adaLN_modulation_1.lora_up.weight"]
        assert torch.equal(theirs, torch.cat(ours.chunk(2)[::-1]) if swapped else ours)


def test_different_ranks_and_alphas_of_q_k_v_survive_kohyas_layout():
    weights = {
        f"transformer_blocks.0.attn.to_{kind}": LayerWeights(torch.randn(rank, 8), torch.randn(8, rank), alpha)
        for kind, rank, alpha in (("q", 2, 1.0), ("k", 3, 3.0), ("v", 4, 8.0))
    }
    back = understood(to_kohya(weights), {}, "file").layers
    for name, layer in weights.items():
        torch.testing.assert_close(back[name].delta(), layer.delta())


def test_another_trainers_dense_fused_update_is_split_without_loss():
    base = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    down, up = torch.randn(6, 32), torch.randn(96, 6)
    tensors = {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up, f"{base}.alpha": torch.tensor(3.0)}
    back = understood(tensors, {}, "file").layers
    deltas = [back[f"transformer_blocks.0.attn.to_{kind}"].delta() for kind in "qkv"]
    torch.testing.assert_close(torch.cat(deltas), 0.5 * up @ down)


@pytest.mark.parametrize("file", ["lora.safetensors", "lora_diffusers.safetensors"])
def test_a_saved_file_loads_back_and_gives_the_same_velocity(tmp_path, file):
    transformer = tiny_transformer()
    network = network_on(transformer, "student")
    with network.using(["student", "student"]):
        expected = velocity(transformer)
    save_lora(tmp_path, "lora", network.weights("student"), "float", {})
    network.load("again", load_lora(tmp_path / file, BLOCKS), file)
    with network.using(["again", "again"]):
        torch.testing.assert_close(velocity(transformer), expected, rtol=1e-4, atol=1e-5)


def test_diffusers_loads_our_file_and_gives_our_velocity(tmp_path, tiny_model):
    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_model)
    transformer = tiny_transformer()
    network = network_on(transformer, "student")
    with network.using(["student", "student"]):
        ours = velocity(transformer)
    before = velocity(pipeline.transformer)
    save_lora(tmp_path, "lora", network.weights("student"), "float", {"format": "pt"})
    pipeline.load_lora_weights(tmp_path, weight_name="lora_diffusers.safetensors")
    theirs = velocity(pipeline.transformer)
    assert (theirs - before).abs().max() > 0.1
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_neither_file_mixes_layouts_or_has_alpha_where_diffusers_refuses_it(tmp_path):
    save_lora(tmp_path, "lora", weights_of(), "fp16", {})
    kohya, diffusers = load_file(tmp_path / "lora.safetensors"), load_file(tmp_path / "lora_diffusers.safetensors")
    assert all(key.startswith("lora_unet_joint_blocks_") for key in kohya)
    assert all(key.startswith("transformer.") and ".lora_" in key for key in diffusers)
    assert {tensor.dtype for tensor in diffusers.values()} == {torch.float16}


def test_the_tied_rank_is_the_files_and_a_wrong_shape_is_reported():
    network = network_on(tiny_transformer())
    name = next(iter(network.layers))
    with pytest.raises(ModelError, match="another model"):
        network.load("x", {name: LayerWeights(torch.zeros(2, 7), torch.zeros(32, 2), 1.0)}, "lora.safetensors")
    with pytest.raises(ModelError, match="lacks"):
        network.load(
            "x", {"transformer_blocks.9.attn.to_q": LayerWeights(torch.zeros(2, 7), torch.zeros(7, 2), 1.0)}, "f"
        )


def test_a_strange_file_is_refused_with_a_sentence(tmp_path):
    from safetensors.torch import save_file

    save_file({"unet.x": torch.zeros(1)}, tmp_path / "sdxl.safetensors")
    with pytest.raises(ModelError, match="not a LoRA for SD3"):
        load_lora(tmp_path / "sdxl.safetensors", BLOCKS)
    (tmp_path / "cut.safetensors").write_bytes(b"\x90" * 40)
    with pytest.raises(ModelError, match="can't be read"):
        load_lora(tmp_path / "cut.safetensors", BLOCKS)
    (tmp_path / "old.pt").write_bytes(b"x")
    with pytest.raises(ModelError, match="never opened"):
        load_lora(tmp_path / "old.pt", BLOCKS)
