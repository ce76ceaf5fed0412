"""Our files load everywhere: each one, read by each UI's rules, does what the adapters do."""

import json

import pytest
import torch
from safetensors.torch import save_file

from library.adapters.files import save_lora
from library.adapters.network import LayerWeights
from library.adapters.uis.apply import delta, patched, read_file
from library.models.sd3.layouts.known import LAYOUTS
from library.models.sd3.layouts.shape import shape_of
from library.models.sd3.layouts.ui_rules import RULES
from tests.helpers.loras import all_layers, network_on
from tests.helpers.tiny import SD35_LARGE, sd3_medium_transformer, tiny_transformer, velocity

LOADS = {
    "kohya": {"ComfyUI", "reForge", "Forge"},
    "diffusers": {"ComfyUI", "reForge", "diffusers"},
    "onetrainer": {"ComfyUI", "reForge", "SD.Next"},
}
BASES = {
    "SD 3.5 Medium": tiny_transformer,
    "SD 3.5 Large": lambda: tiny_transformer(**SD35_LARGE),
    "SD 3 Medium": sd3_medium_transformer,
}


def readings_of(path, transformer):
    file, metadata = read_file(path)
    return file, {ui: rule(file, metadata, shape_of(transformer)) for ui, rule in RULES.items()}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_moves_the_velocity_as_the_adapters_do_in_every_ui_that_loads_it(tmp_path, layout, base):
    transformer = BASES[base]()
    network = network_on(transformer, "student", targets=[one for one in all_layers() if one in ends(transformer)])
    with network.using(["student", "student"]):
        expected = velocity(transformer)
    before = velocity(transformer)
    assert (expected - before).abs().max() > 0.1
    (path,) = save_lora(tmp_path, "lora", network.weights("student"), "float", {}, [layout])
    file, readings = readings_of(path, transformer)
    loads = {ui for ui, one in readings.items() if not one.refused and one.patches and not one.unmatched}
    assert loads == LOADS[layout] | ({"A1111"} if layout == "kohya" and base == "SD 3 Medium" else set())
    for ui in loads:
        with patched(transformer, readings[ui], file):
            torch.testing.assert_close(velocity(transformer), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(velocity(transformer), before)


def ends(transformer) -> set[str]:
    names = [name for name, one in transformer.named_modules() if isinstance(one, torch.nn.Linear)]
    return {".".join(name.split(".")[count:]) for name in names for count in range(1, 5)}


def test_alpha_is_read_where_each_ui_looks_for_it():
    """PEFT's file with alpha only in its metadata: half as strong in diffusers, full strength in ComfyUI."""
    name = "transformer_blocks.0.ff.net.2"
    down, up = torch.randn(4, 128), torch.randn(32, 4)
    file = {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 2})}
    shape = shape_of(tiny_transformer())
    for ui, scale in {"diffusers": 0.5, "ComfyUI": 1.0}.items():
        patches = RULES[ui](file, metadata, shape).patches[name]
        torch.testing.assert_close(delta(patches, file), scale * up @ down)


def test_two_layouts_in_one_file_act_twice_in_comfyui():
    weights = {"transformer_blocks.0.attn.to_out.0": LayerWeights(torch.randn(4, 32), torch.randn(32, 4), 4.0)}
    file = {**LAYOUTS["kohya"].write(weights), **LAYOUTS["diffusers"].write(weights)}
    (name,) = weights
    patches = RULES["ComfyUI"](file, {}, shape_of(tiny_transformer())).patches[name]
    torch.testing.assert_close(delta(patches, file), 2 * weights[name].delta())


@pytest.mark.parametrize(("foreign", "loads"), [(0, True), (12, True), (13, False)])
def test_forge_drops_a_file_with_more_than_twelve_foreign_keys(foreign, loads):
    weights = {"transformer_blocks.0.attn.to_out.0": LayerWeights(torch.randn(4, 32), torch.randn(32, 4), 4.0)}
    file = {**LAYOUTS["kohya"].write(weights), **{f"lora_concept.{i}": torch.zeros(1) for i in range(foreign)}}
    reading = RULES["Forge"](file, {}, shape_of(tiny_transformer()))
    assert bool(reading.patches) is loads and (reading.refused is None) is loads


def test_the_rules_need_no_writer(tmp_path):
    """A dense kohya file, as sd-scripts writes it, straight into the original's fused layer."""
    down, up = torch.randn(5, 32), torch.randn(96, 5)
    base = "lora_unet_joint_blocks_1_context_block_attn_qkv"
    tensors = {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up, f"{base}.alpha": torch.tensor(2.5)}
    save_file(tensors, tmp_path / "kohya.safetensors")
    file, readings = readings_of(tmp_path / "kohya.safetensors", tiny_transformer())
    parts = [f"transformer_blocks.1.attn.add_{kind}_proj" for kind in "qkv"]
    for ui in ("ComfyUI", "Forge"):
        found = torch.cat([delta(readings[ui].patches[part], file) for part in parts])
        torch.testing.assert_close(found, 0.5 * up @ down)
