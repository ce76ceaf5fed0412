"""The example workflows of the ComfyUI nodes: valid, and with COMFYUI_DIR=a checkout, drawn by its nodes."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest
import torch

from tests.helpers import comfy_checkout as real

FILES = sorted((real.PACKAGE / "example_workflows").glob("*.json"))
OURS = {
    "PureCCConceptLoader": (["model", "clip"], ["MODEL", "CLIP", "CONDITIONING"], 5),
    "PureCCPrompt": (["clip"], ["CONDITIONING"], 1),
}
"""Inputs that are linked, outputs, and how many widgets."""
PIXELS = 64
CONTROL_AFTER_GENERATE = {"seed"}
"""Widgets that have one more behind them, which says what happens to them after each picture."""


def workflow(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_there_are_three():
    assert [path.stem for path in FILES] == ["style", "subject", "two_concepts"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_links_join_outputs_and_inputs_of_one_type(path):
    drawn = workflow(path)
    nodes = {node["id"]: node for node in drawn["nodes"]}
    assert len(nodes) == len(drawn["nodes"]) == drawn["last_node_id"]
    for number, source, out, target, slot, kind in drawn["links"]:
        assert nodes[source]["outputs"][out]["type"] == nodes[target]["inputs"][slot]["type"] == kind
        assert number in nodes[source]["outputs"][out]["links"]
        assert nodes[target]["inputs"][slot]["link"] == number
    linked = [one["link"] for node in nodes.values() for one in node["inputs"]]
    assert sorted(linked) == sorted(link[0] for link in drawn["links"]), "no input is left open"
    for node in nodes.values():
        if node["type"] in OURS:
            inputs, outputs, widgets = OURS[node["type"]]
            assert [one["name"] for one in node["inputs"]] == inputs
            assert [one["type"] for one in node["outputs"]] == outputs
            assert len(node["widgets_values"]) == widgets


def class_of(kind, world):
    """A node's class by its name."""
    import nodes
    from comfy_extras import nodes_sd3

    theirs = {"TripleCLIPLoader", "EmptySD3LatentImage"}
    ours = world.nodes.NODE_CLASS_MAPPINGS
    return ours.get(kind) or (getattr(nodes_sd3, kind) if kind in theirs else nodes.NODE_CLASS_MAPPINGS[kind])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The trainer's files, and models in ComfyUI."""
    return real.make_world(tmp_path_factory.mktemp("comfyui"))


def inputs_of(node, needed, results, drawn):
    """The arguments of a node: inputs from links, and widgets in the order of the node's declaration."""
    linked = {one["name"]: results[link[1]][link[2]] for one in node["inputs"] for link in drawn["links"]
              if link[0] == one["link"]}  # fmt: skip
    widgets, given = list(node["widgets_values"]), {}
    for name in needed:
        if name not in linked:
            given[name] = widgets.pop(0)
            if name in CONTROL_AFTER_GENERATE:
                widgets.pop(0)
    assert not widgets, "every widget has a name"
    return {**linked, **given}


@pytest.mark.skipif(not real.CHECKOUT, reason=real.WHY_NOT)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_comfyuis_nodes_draw_them(path, world):
    """With the tiny model instead of the checkpoint, two steps, and no VAE."""
    drawn, results = workflow(path), {}
    hooked = 0
    for node in drawn["nodes"]:
        kind = node["type"]
        if kind in ("Note", "VAEDecode", "SaveImage"):
            continue
        cls = class_of(kind, world)
        declared = cls.INPUT_TYPES()
        given = inputs_of(node, {**declared["required"], **declared.get("optional", {})}, results, drawn)
        assert [one["type"] for one in node["outputs"]] == list(cls.RETURN_TYPES)
        if kind == "CheckpointLoaderSimple":
            results[node["id"]] = (world.model, None, None)
        elif kind == "TripleCLIPLoader":
            results[node["id"]] = (world.clip,)
        elif kind == "EmptySD3LatentImage":
            results[node["id"]] = cls.execute(PIXELS, PIXELS, given["batch_size"]).result
        else:
            given.update({"steps": 2} if kind == "KSampler" else {})
            results[node["id"]] = getattr(cls(), cls.FUNCTION)(**given)
        if kind == "KSampler":
            (latent,) = results[node["id"]]
            assert latent["samples"].shape == (1, 16, PIXELS // 8, PIXELS // 8)
            assert torch.isfinite(latent["samples"]).all()
            hooked += "hooks" in given["positive"][0][1]
            assert "hooks" not in given["negative"][0][1]
            wrappers = given["positive"][0][1]["hooks"].hooks[0].transformers_dict["wrappers"]["apply_model"]["purecc"]
            assert len(wrappers[0].placements) == (2 if path.stem == "two_concepts" else 1)
    assert hooked == 1


@pytest.mark.skipif(not real.CHECKOUT, reason=real.WHY_NOT)
def test_comfyui_loads_a_copy_of_the_folder(world, tmp_path):
    import nodes

    copied = shutil.copytree(real.PACKAGE, tmp_path / "custom_nodes" / "comfyui_purecc")
    assert asyncio.run(nodes.load_custom_node(str(copied)))
    assert set(OURS) <= set(nodes.NODE_CLASS_MAPPINGS) and set(OURS) <= set(nodes.NODE_DISPLAY_NAME_MAPPINGS)
