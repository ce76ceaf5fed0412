"""Where ComfyUI's real tokenizers put a trigger, and where the nodes find it. Needs COMFYUI_DIR=a checkout."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from library.config.dataset import Concept
from library.data.texts import TriggerLayout
from tests.helpers import comfy_checkout as real

pytestmark = pytest.mark.skipif(not real.CHECKOUT, reason=real.WHY_NOT)

PROMPT = "a photo of a sks dog on the beach"
LONG = "sunny day, " * 40


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The trainer's model with a LoRA, the files it writes, and the same model and nodes in ComfyUI."""
    yield real.make_world(tmp_path_factory.mktemp("comfyui"))
    import comfy.model_management

    comfy.model_management.unload_all_models()


PROMPTS = ["sks dog", PROMPT, "A SKS dog, a sks.", "sks's dog (really)", "no trigger, sksy", "a\nsks\ndog"]
PROMPTS += ["\u00fcber sks \u732b dog", "sks2 sks", "<v>sks<v> dog"]


@pytest.mark.parametrize("text", PROMPTS)
@pytest.mark.parametrize("trigger", ["sks", "ohwx", "<v>", "V*"])
def test_positions_are_the_trainers(world, text, trigger):
    text = text.replace("sks", trigger).replace("(", "").replace(")", "")
    concept = Concept(name="x", trigger=trigger, class_word="dog", kind="subject", target="[V] dog")
    layout = TriggerLayout(concept, world.trainer)
    found = find(world, text, trigger, layout)
    wanted = layout.find(text, world.trainer)
    assert sorted((t.position, t.vector) for t in found) == sorted((t.position, t.vector) for t in wanted)
    assert all(token.weight == 1 for token in found)


def find(world, text, trigger, layout, clip=None):
    """The node's trigger tokens."""
    from purecc_in_comfyui.concept_file import LoadedConcept
    from purecc_in_comfyui.trigger_positions import find_trigger

    loaded = LoadedConcept("x", trigger, *layout.counts, 0, torch.zeros(1, layout.vectors, 4))
    return find_trigger(clip or world.clip, text, loaded)


def ids_at(world, text, tokens, clip=None):
    """The ids that ComfyUI has at trigger tokens: CLIP's, and T5's."""
    lists = (clip or world.clip).tokenize(text)
    flat = {name: [token for chunk in chunks for token, _ in chunk] for name, chunks in lists.items()}
    border = len(flat["l"])
    clip_ids = [flat["l"][token.position] for token in tokens if token.position < border]
    return clip_ids, [flat["t5xxl"][token.position - border] for token in tokens if token.position >= border]


SKS_IN_CLIP, SKS_IN_T5 = [48136], [7, 157, 7]


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("a (sks:1.2) dog", {1.2}),
        ("a ((sks dog)) (house:0.5)", {1.1 * 1.1}),
        (r"a \(sks\) dog", {1.0}),
        (LONG + "a sks dog " + LONG, {1.0}),
        (LONG + "(a sks dog:0.8) " + LONG, {0.8}),
        ("(a red house:1.3) sks dog (beach)", {1.0}),
    ],
)
def test_the_trigger_is_found_under_weights_and_in_long_prompts(world, text, weights):
    tokens = find(world, text, "sks", world.layouts["dog"])
    clip, t5 = ids_at(world, text, tokens)
    assert clip == SKS_IN_CLIP
    assert t5[-3:] == SKS_IN_T5
    assert {round(token.weight, 6) for token in tokens} == {round(weight, 6) for weight in weights}


@pytest.mark.parametrize("tail", [" a sks dog", ", a sks dog", "\n, (a sks dog:1.0)"])
def test_the_trigger_is_found_behind_an_embedding(world, tail, tmp_path):
    save_file({"clip_l": torch.zeros(3, 768), "clip_g": torch.zeros(3, 1280), "t5xxl": torch.zeros(2, 4096)},
              tmp_path / "old.safetensors")  # fmt: skip
    clip = real.clip_of_comfyui()
    for name in ("clip_l", "clip_g", "t5xxl"):
        getattr(clip.tokenizer, name).embedding_directory = [str(tmp_path)]
    text = "photo embedding:old" + tail
    tokens = find(world, text, "sks", world.layouts["dog"], clip)
    ids, t5 = ids_at(world, text, tokens, clip)
    assert ids == SKS_IN_CLIP
    assert t5[-3:] == SKS_IN_T5


@pytest.mark.parametrize("missing", [("t5xxl",), ("clip_l", "clip_g"), ("clip_g",)])
def test_encoders_that_are_not_loaded_take_no_place(world, missing):
    clip = real.clip_of_comfyui()
    for name in missing:
        setattr(clip.cond_stage_model, name, None)
    tokens = find(world, PROMPT, "sks", world.layouts["dog"], clip)
    everything = find(world, PROMPT, "sks", world.layouts["dog"])
    if missing == ("t5xxl",):
        assert [t.position for t in tokens] == [t.position for t in everything if t.position < 77]
    elif "clip_l" in missing:
        assert [t.position for t in tokens] == [t.position - 77 for t in everything if t.position >= 77]
    else:
        assert tokens == everything


def test_clip_tokens_without_offsets_are_the_same(world):
    """CLIP's tokenizer in transformers 4 has no offsets; its tokens are the same."""
    from purecc_in_comfyui import trigger_positions

    tokenizer = world.clip.tokenizer.clip_l
    for text in (
        PROMPT,
        "(<v>, V*, sks.)",
        "V*'s",
        "a <v>!!  (b)",
        "sks's\nsks",
        "\u00dcber caf\u00e9 \u732b sks \U0001f436!",
    ):
        assert trigger_positions.spans_by_bytes(tokenizer, text) == trigger_positions.spans_of(tokenizer, text), text


def test_signs_that_a_tokenizer_changes_are_named(world):
    from purecc_in_comfyui import trigger_positions

    with pytest.raises(ValueError, match="CLIP's tokenizer"):
        trigger_positions.spans_by_bytes(world.clip.tokenizer.clip_l, "cafe\u0301 sks")
