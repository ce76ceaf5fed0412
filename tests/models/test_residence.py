"""The base's residence changes memory use, and no results that it need not change."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from library.adapters.files import save_lora
from library.adapters.linear import AdapterLinear
from library.errors import ConfigError, ModelError
from library.models.interface import BaseChange
from library.models.loading.tensor_file import TensorFile
from library.models.memory.live_memory import LiveMemory, held_by, storage_bytes
from library.models.memory.operations import META
from library.models.memory.quantised import QuantisedLinear
from library.models.opening import load_model
from library.models.sd3.position_table import PositionTable
from library.preflight.forecast import Forecast, count_step, counted_parts, forecast
from library.training.run import Run
from tests.helpers.loras import PART
from tests.helpers.loras import layer as layer_of
from tests.helpers.runs import before_stage_1, prepared, ready
from tests.helpers.tiny import tiny_transformer

DEEP = 6
"""Blocks of a model deep enough to swap some."""


@pytest.fixture(scope="module")
def deep_model(tiny_model, tmp_path_factory):
    """The tiny model with more blocks."""
    folder = tmp_path_factory.mktemp("models") / "deep"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    shutil.rmtree(folder / "transformer")
    torch.manual_seed(3)
    transformer = SD3Transformer2DModel.from_config({**config, "num_layers": DEEP})
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.15)
    transformer.save_pretrained(folder / "transformer")
    return folder


def trained(plan) -> tuple[Run, dict[str, torch.Tensor]]:
    run = Run(plan)
    run.train()
    files = ["tiny.safetensors", "tiny_concept.safetensors"]
    return run, {f"{name} {key}": value for name in files for key, value in load_file(run.folder / name).items()}


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_the_cropped_position_table_gives_the_same_vectors_and_holds_what_was_asked_for():
    whole, cropped = tiny_transformer().pos_embed, tiny_transformer().pos_embed
    PositionTable(cropped, torch.device("cpu"))
    for size in [(4, 4), (2, 6), (6, 10), (8, 2), (16, 16), (10, 14)]:
        assert torch.equal(whole.cropped_pos_embed(*size), cropped.cropped_pos_embed(*size))
        assert cropped.pos_embed.shape[1] <= 64
    PositionTable(cropped := tiny_transformer().pos_embed, torch.device("cpu"))
    cropped.cropped_pos_embed(4, 6)
    assert cropped.pos_embed.shape[1] == 16  # 3 x 3 places, and one more so that the margins are equal


@pytest.mark.parametrize(("kind", "error", "share"), [("int8", 0.01, 0.26), ("fp8", 0.04, 0.26), ("nf4", 0.12, 0.16)])
def test_a_quantised_layer_is_small_near_and_has_the_gradient_of_what_it_computes(kind, error, share):
    torch.manual_seed(0)
    layer = nn.Linear(256, 128)
    packed = QuantisedLinear(layer, kind, torch.device("cpu"))
    weight = packed.unpacked(torch.float32)
    assert (weight - layer.weight).norm() < error * layer.weight.norm()
    assert sum(tensor.nbytes for tensor in held_by(packed)) < share * sum(t.nbytes for t in held_by(layer)) + 1024
    x = torch.randn(2, 3, 256, requires_grad=True)
    y = torch.randn(2, 3, 128)
    (packed(x) * y).sum().backward()
    torch.testing.assert_close(packed(x), nn.functional.linear(x, weight, layer.bias))
    torch.testing.assert_close(x.grad, y @ weight)


@pytest.mark.parametrize("kind", ["int8", "fp8", "nf4"])
def test_a_quantised_layer_keeps_nothing_for_the_backward_pass(kind):
    packed = QuantisedLinear(nn.Linear(256, 128).to(META), kind, META)
    x = torch.zeros(4, 256, device=META, requires_grad=True)
    with LiveMemory() as memory:
        out = packed(x)
        assert memory.now == out.nbytes
        assert memory.peak >= 256 * 128 * 4


@pytest.mark.parametrize("kind", ["int8", "fp8", "nf4"])
def test_a_quantised_base_trains(kind, plan_of):
    run, saved = trained(plan_of(base_quantization=kind, mixed_precision="bf16", gradient_checkpointing=True))
    layers = [layer.base for layer in run.parts.network.layers.values()]
    assert layers and all(isinstance(layer, QuantisedLinear) and layer.kind == kind for layer in layers)
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())
    assert any(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_up" in name)


@pytest.fixture
def written_to(plan_of, deep_model, tmp_path, monkeypatch):
    """`written_to(...)`: trains on mapped weights, a LoRA merged into one of them; names those that have changed."""
    folder, read, mapped = tmp_path / "deep", TensorFile.read, []
    shutil.copytree(deep_model, folder)
    for path in folder.rglob("*.safetensors"):
        save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    merged = save_lora(tmp_path, "merged", {PART: layer_of(0, 32, 128)}, "float", {}, ["kohya"])

    def noted(file: TensorFile, name: str) -> torch.Tensor:
        mapped.append((file.path, name, tensor := read(file, name)))
        return tensor

    def train(**settings) -> set[str]:
        common = {"mixed_precision": "bf16", "base_weights": [str(path) for path in merged]}
        Run(plan_of(pretrained_model_name_or_path=str(folder), **common, **settings)).train()
        kept = {path: load_file(path) for path, _, _ in mapped}
        assert len(kept) > 1
        return {name for path, name, tensor in mapped if not torch.equal(tensor, kept[path][name])}

    monkeypatch.setattr(TensorFile, "read", noted)
    return train


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"base_quantization": "int8"},
        {"blocks_to_swap": 2, "gradient_checkpointing": True},
        {"method": "dreambooth", "student_embeddings": "none"},
    ],
)
def test_nothing_writes_to_the_mapped_file(settings, written_to):
    assert not written_to(**settings)


def merged_where_it_is(added_to):
    return lambda change, name, weight: weight.copy_(added_to(change, name, weight))


def merged_for_a_pass(forward):
    """An adapter is added to the weight and taken away again, which leaves what was rounded."""

    def mutant(layer, x):
        for adapter in layer.adapters.values():
            change = adapter.change().detach()
            layer.weight.data.add_(change).sub_(change)  # .data, or the backward pass itself would find it
        return forward(layer, x)

    return mutant


MUTANTS = {
    merged_where_it_is: (BaseChange, "added_to", PART),
    merged_for_a_pass: (AdapterLinear, "forward", "transformer_blocks"),
}
"""What each replaces, and what is in the names of the weights that it spoils."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_what_writes_to_the_mapped_file_is_found(mutant, written_to, monkeypatch):
    owner, name, layers = MUTANTS[mutant]
    monkeypatch.setattr(owner, name, mutant(getattr(owner, name)))
    changed = written_to()
    assert changed and all(layers in one and one.endswith(".weight") for one in changed)


def test_student_pretrained_and_extractor_share_the_quantised_base(plan_of):
    """A fresh student predicts what the pretrained model does, to the bit: it has no separate base weights."""
    run = prepared(plan_of(base_quantization="nf4"))
    run.parts.add_adapter("student")
    layer = next(iter(run.parts.network.layers.values()))
    x = torch.randn(1, 4, layer.base.in_features)
    with run.parts.network.using(["student"]):
        student = layer(x)
    assert torch.equal(student, layer(x))


def test_quantised_bases_have_caches_of_their_own(tiny_model, plan_of):
    names = {kind: plan_of(base_quantization=kind).parts.model.fingerprint() for kind in ("none", "int8", "nf4")}
    assert len(set(names.values())) == 3


@pytest.mark.parametrize("passes", ["together", "one_by_one"])
@pytest.mark.parametrize(("swapped", "quantization"), [(1, "none"), (2, "none"), (4, "none"), (4, "fp8"), (4, "nf4")])
def test_swapping_changes_nothing_to_the_bit(plan_of, deep_model, tmp_path, swapped, quantization, passes):
    common = {
        "pretrained_model_name_or_path": str(deep_model),
        "gradient_checkpointing": True,
        "base_quantization": quantization,
        "batch_passes": passes,
        "overwrite": True,
    }
    _, plain = trained(plan_of(**common))
    run, swapping = trained(plan_of(**common, blocks_to_swap=swapped))
    assert_same(plain, swapping)
    swap = run.parts.model.base.swap
    assert len(swap.places) <= 2 and len(swap.resident) <= 2 and swap.bytes_moved > 0
    base = [tensor for block in run.parts.model.base.weights[:swapped] for tensor in block]
    assert storage_bytes(base) <= storage_bytes(swap.places)


def test_a_step_moves_each_swapped_block_once_a_pass(plan_of, deep_model):
    """The last two blocks are still there for the backward pass."""
    run = ready(
        plan_of(
            pretrained_model_name_or_path=str(deep_model),
            gradient_checkpointing=True,
            blocks_to_swap=4,
            eta=0.0,
            anchor_weight=0.0,
            replay_weight=0.0,
            surroundings_weight=0.0,
            concept_embeddings="none",
        )
    )
    stage = run.student_stage()
    stage.step()
    swap, size = run.parts.model.base.swap, {layout.size for layout in run.parts.model.base.swap.layouts}
    before = swap.bytes_moved
    stage.step()
    most = max(size)
    assert swap.bytes_moved - before <= (2 + 2 + 2) * most


@pytest.mark.parametrize("count", [0, 2, 3])
def test_blocks_recomputed_are_those_that_were_asked_for(plan_of, count):
    run = before_stage_1(plan_of(gradient_checkpointing=True, checkpointed_blocks=count, replay_weight=0.0))
    calls = [0] * len(run.parts.model.blocks)
    for index, block in enumerate(run.parts.model.blocks):

        def count_call(module, args, kwargs, index=index):
            calls[index] += torch.is_grad_enabled()

        block.register_forward_pre_hook(count_call, with_kwargs=True)
    run.extractor_stage().step()
    assert calls == [2] * count + [1] * (3 - count)


@pytest.mark.parametrize("backend", ["math", "flash", "cudnn"])
def test_an_attention_kernel_is_used_or_its_absence_said(plan_of, backend):
    run, _ = trained(plan_of(sdpa_backend=backend, gradient_checkpointing=True))
    said = any("sdpa_backend" in notice for notice in run.parts.model.notices)
    assert said == (backend == "cudnn" and not torch.cuda.is_available())


def test_settings_that_exclude_each_other_are_reported(plan_of, tiny_model):
    with pytest.raises(ConfigError, match="fp8_base = true and base_quantization"):
        plan_of(fp8_base=True, base_quantization="nf4")
    with pytest.raises(ConfigError, match="blocks_to_swap needs gradient_checkpointing"):
        plan_of(blocks_to_swap=1, gradient_checkpointing=False)
    with pytest.raises(ConfigError, match="sdpa and xformers are both false"):
        plan_of(sdpa=False)
    with pytest.raises(ModelError, match="of this model's 3 blocks, 1 can be swapped"):
        _ = load_model(plan_of(blocks_to_swap=2, gradient_checkpointing=True).settings.model).transformer


def test_fp8_base_is_kohyas_name(plan_of):
    assert plan_of(fp8_base=True).parts.model.residence.quantization == "fp8"


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_torch_compile_changes_nothing_but_rounding_or_says_why_not(plan_of, quantization):
    common = {
        "gradient_checkpointing": True,
        "base_quantization": quantization,
        "overwrite": True,
        "replay_weight": 0.0,
    }
    _, plain = trained(plan_of(**common))
    run, compiled = trained(plan_of(**common, torch_compile=True))
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=5e-2, atol=1e-3)
    said = any("torch_compile can't be used" in notice for notice in run.parts.model.notices)
    assert said != any(block.ff._compiled_call_impl is not None for block in run.parts.model.blocks)


def test_torch_compile_without_a_compiler_is_reported(plan_of, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    run, _ = trained(plan_of(torch_compile=True))
    assert "torch_compile can't be used (no compiler); the run continues without it." in run.parts.model.notices


def test_what_blocks_start_from_may_wait_elsewhere_and_changes_no_number(plan_of, deep_model):
    """Also with swapped blocks; offloaded tensors come back once for each recomputed block and pass."""
    common = {
        "pretrained_model_name_or_path": str(deep_model),
        "gradient_checkpointing": True,
        "checkpointed_blocks": "all",
        "network_dropout": 0.2,
        "overwrite": True,
    }
    _, plain = trained(plan_of(**common))
    _, swapped = trained(plan_of(**common, cpu_offload_checkpointing=True, blocks_to_swap=2))
    assert_same(plain, swapped)


def test_the_planner_counts_the_swapped_blocks_as_their_two_places(plan_of, deep_model):
    given = {"pretrained_model_name_or_path": str(deep_model), "gradient_checkpointing": True}
    plain, swapping = plan_of(**given), plan_of(**given, blocks_to_swap=4)
    blocks = [tensor for block in counted_parts(plain).model.base.weights[:4] for tensor in block]
    places = counted_parts(swapping).model.base.swap.places
    saved = storage_bytes(blocks) - sum(place.nbytes for place in places)
    assert len(places) == 2 and saved > 0
    found = [stays(forecast(plan)) for plan in (plain, swapping)]
    assert found[1] == {phase: held - saved for phase, held in found[0].items()}


def stays(predicted: Forecast) -> dict[str, int]:
    """Bytes that stay on the device while a stage's steps are made and while pictures are drawn."""
    return {phase: one.weights for phase, one in predicted.needs.items() if "stage" in phase or phase == "sampling"}


def test_pictures_are_drawn_beside_all_that_a_step_of_stage_2_leaves(plan_of):
    held = stays(forecast(plan_of(ema_decay=0.9)))
    assert held["sampling"] == held["stage 2, student"]


def test_the_planner_counts_what_waits_elsewhere(plan_of, deep_model):
    given = {"pretrained_model_name_or_path": str(deep_model), "gradient_checkpointing": True}
    plan = plan_of(**given, cpu_offload_checkpointing=True)
    residence = plan.parts.model.residence
    kept, away = (count_step(plan, "student", replace(residence, offloaded=one)) for one in (False, True))
    assert away.footprint.transient < kept.footprint.transient and kept.moved == 0
    assert away.flops == kept.flops
    inside = {"recomputed": 0, "offloaded": True}
    assert count_step(plan, "student", replace(residence, **inside)).moved == 0, "only recomputed blocks put it away"
    assert away.moved % 2 == 0 and away.moved > 2 * DEEP * 16 * 32 * 4, "there and back"
