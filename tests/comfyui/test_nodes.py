"""The ComfyUI nodes with stand-ins for ComfyUI; `test_checkout.py` runs them in its real code."""

from __future__ import annotations

import ast
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from library.adapters.files import SavedConcept, concept_metadata, save_concepts
from library.hierarchical_embedding_injector import ConceptEmbeddings, ConceptToken, placements_of
from tests.helpers import comfy_stand_ins as stand_ins
from tests.helpers.comfy_checkout import PACKAGE
from tests.helpers.comfy_stand_ins import BLOCKS, CLIP_TOKENS, T5_TOKENS, TEXT, WIDTH
from tests.helpers.tiny import LENGTH


def streams(model, conditioning, **given):
    (context, told) = conditioning[0]
    return model.text_streams(told.get("hooks"), context, **given)


def places(comfy, text=TEXT, trigger="sks") -> list[tuple[int, int]]:
    """(position, vector) of the trigger, by the tokenizers' own offsets over the whole text."""
    begin = text.index(trigger)
    found = []
    for name, before, vector in (("clip_l", 0, 0), ("t5xxl", LENGTH, CLIP_TOKENS)):
        offsets = getattr(comfy.clip.tokenizer, name).tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        held = [i for i, (a, b) in enumerate(offsets) if a < begin + len(trigger) and b > begin and b > a]
        found += [(before + index, vector + number) for number, index in enumerate(held)]
    return found


def test_the_text_stream_is_the_trainers(comfy):
    """Compared with the trainer's injector, block by block."""
    model, _, conditioning = comfy.load()
    tokens = [ConceptToken(position, "dog", vector) for position, vector in places(comfy)]
    assert len(tokens) == CLIP_TOKENS + T5_TOKENS
    embeddings = {"dog": ConceptEmbeddings(comfy.vectors, BLOCKS)}
    (placement,) = placements_of([tokens], [embeddings], torch.device("cpu"))
    text = comfy.model.embed(conditioning[0][0]).detach()
    for block, seen in enumerate(streams(comfy.model, conditioning)):
        vectors = embeddings["dog"].at(block).detach()[placement.vectors]
        text = text.index_put((placement.rows, placement.positions), vectors)
        assert torch.equal(seen, text)
        text = text + 1
    assert model is comfy.model


def test_prompts_without_the_trigger_have_no_hook(comfy):
    _, clip, _ = comfy.load()
    (conditioning,) = comfy.nodes.PureCCPrompt().encode(clip, "a dog city")
    assert "hooks" not in conditioning[0][1]


def test_the_placeholder_stands_for_the_trigger(comfy):
    _, _, by_name = comfy.load()
    _, _, by_placeholder = comfy.load(text=TEXT.replace("sks", "[V]"))
    assert torch.equal(by_name[0][0], by_placeholder[0][0])
    with pytest.raises(ValueError, match="none"):
        comfy.nodes.PureCCPrompt().encode(comfy.clip, "a [V] dog")


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.5])
def test_strength_goes_from_the_prompts_own_state_to_the_vector_and_on(comfy, strength):
    _, _, conditioning = comfy.load(strength=strength)
    (seen, *_) = streams(comfy.model, conditioning)
    (own, *_) = comfy.model.text_streams(None, conditioning[0][0])
    for position, vector in places(comfy):
        wanted = own[0, position] + strength * (comfy.vectors[0, vector] - own[0, position])
        torch.testing.assert_close(seen[0, position], wanted)


def test_a_weight_in_the_prompt_multiplies_the_strength(comfy):
    _, _, weighted = comfy.load(text="a (sks:0.5) dog")
    _, _, half = comfy.load(text="a sks dog", strength=0.5)
    assert torch.equal(weighted[0][0], half[0][0])
    torch.testing.assert_close(streams(comfy.model, weighted), streams(comfy.model, half))


def test_rows_of_other_prompts_in_the_same_call_are_left_alone(comfy):
    """ComfyUI copies a positive's hooks to the negative of a region, and to its emptied copy."""
    _, clip, conditioning = comfy.load()
    (other,) = comfy.nodes.PureCCPrompt().encode(clip, "a dog beach")
    own = conditioning[0][0]
    rows = torch.cat([other[0][0], own, torch.zeros_like(own), own])
    hooks = conditioning[0][1]["hooks"]
    plain = comfy.model.text_streams(None, rows)
    for block, seen in enumerate(comfy.model.text_streams(hooks, rows)):
        assert torch.equal(seen[[0, 2]], plain[block][[0, 2]])
        assert not torch.equal(seen[1], plain[block][1])
        assert torch.equal(seen[1], seen[3])
    short = other[0][0][:, :3]
    assert torch.equal(comfy.model.text_streams(hooks, short)[0], comfy.model.text_streams(None, short)[0])


def test_a_patch_that_stands_there_is_called_with_the_vectors_in_place(comfy):
    got = []

    def other(args, extra):
        got.append(args["txt"].clone())
        return extra["original_block"]({**args, "txt": args["txt"] * 2})

    _, _, conditioning = comfy.load()
    seen = streams(comfy.model, conditioning, earlier={("double_block", 1): other})
    for position, vector in places(comfy):
        assert torch.equal(got[0][0, position], comfy.vectors[1, vector])
        assert torch.equal(seen[1][0, position], 2 * comfy.vectors[1, vector])


def test_the_text_stream_is_never_changed_in_place(comfy):
    _, _, conditioning = comfy.load()
    kept = []

    def keeping(args, extra):
        kept.append(args["txt"])
        return extra["original_block"](args)

    streams(comfy.model, conditioning, earlier={("double_block", 2): keeping})
    context = conditioning[0][0].clone()
    streams(comfy.model, conditioning)
    assert torch.equal(context, conditioning[0][0])
    position, vector = places(comfy)[0]
    assert torch.equal(kept[0][0, position], comfy.vectors[2, vector])


def test_vectors_for_only_the_first_block(comfy):
    concept = SavedConcept(
        "dog", "sks", "dog", "subject", "[V] dog", {"clip": CLIP_TOKENS, "t5": T5_TOKENS}, False, {"t5": 12}
    )
    save_concepts(comfy.folder / "embeddings" / "first.safetensors", {"dog": comfy.vectors[:1]}, [concept])
    _, _, conditioning = comfy.load(concept="first.safetensors")
    seen = streams(comfy.model, conditioning)
    position, vector = places(comfy)[0]
    assert torch.equal(seen[0][0, position], comfy.vectors[0, vector])
    assert torch.equal(seen[1][0, position], comfy.vectors[0, vector] + 1)


def test_loaders_in_a_chain_give_a_prompt_both_concepts(comfy):
    other = SavedConcept(
        "style", "ohwx", "style", "style", "[V] style", {"clip": CLIP_TOKENS, "t5": T5_TOKENS}, True, {"t5": 20}
    )
    vectors = torch.randn_like(comfy.vectors)
    save_concepts(comfy.folder / "embeddings" / "style_concept.safetensors", {"style": vectors}, [other])
    model, clip, _ = comfy.load("dog.safetensors", text="")
    model, clip, conditioning = comfy.load(
        "dog.safetensors", "style_concept.safetensors", "a sks dog ohwx", 0.7, model=model, clip=clip
    )
    assert [strength for _, strength in model.loras] == [1.0, 0.7]
    assert clip.tokenizer_options == {"t5xxl_min_length": 20}
    assert comfy.clip.tokenizer_options == {}, "the CLIP that was given stays as it was"
    assert conditioning[0][0].shape[1] == LENGTH + 20
    (seen, *_) = streams(comfy.model, conditioning)
    position, vector = places(comfy, "a sks dog ohwx")[0]
    assert torch.equal(seen[0, position], comfy.vectors[0, vector])
    own = comfy.model.text_streams(None, conditioning[0][0])[0]
    position, vector = places(comfy, "a sks dog ohwx", "ohwx")[0]
    torch.testing.assert_close(seen[0, position], torch.lerp(own[0, position], vectors[0, vector], 0.7))
    with pytest.raises(ValueError, match='"sks", "ohwx"'):
        comfy.nodes.PureCCPrompt().encode(clip, "a [V] dog")
    with pytest.raises(ValueError, match='have the trigger "sks"'):
        comfy.load(clip=clip)


def test_a_prompt_of_several_chunks(comfy):
    text = "red dog city " * 4 + "sks beach"
    _, _, conditioning = comfy.load(text=text)
    (seen, *_) = streams(comfy.model, conditioning)
    own = comfy.model.text_streams(None, conditioning[0][0])[0]
    changed = (seen != own).any(-1)[0].nonzero()[:, 0].tolist()
    lists = comfy.clip.tokenize(text)
    assert len(lists["l"]) > 1
    flat = [token for chunk in [*lists["l"], *lists["t5xxl"]] for token, _ in chunk]
    wanted = [getattr(comfy.clip.tokenizer, name).tokenizer("sks")["input_ids"] for name in ("clip_l", "t5xxl")]
    assert [flat[position] for position in changed] == [wanted[0][1], *wanted[1][:-1]][: len(changed)]
    assert len(changed) == 2


@pytest.mark.parametrize("begin_of_word", [(1, 2), (2, 3), (2, 2)], ids=["the space", "the letter", "nothing"])
def test_t5s_word_start_belongs_to_the_word(comfy, begin_of_word):
    """Versions of transformers differ in what that token holds; the vectors must not shift by one."""
    offsets = [(0, 1), begin_of_word, (2, 3), (3, 5), (5, 9), (0, 0)]

    class Tokenizer:
        is_fast = True

        def __call__(self, text, return_offsets_mapping=False):
            return {"input_ids": [0] * len(offsets), "offset_mapping": offsets}

    wrapped = SimpleNamespace(tokenizer=Tokenizer(), tokens_start=0, tokenizer_adds_end_token=True)
    positions = sys.modules[comfy.nodes.find_trigger.__module__]
    assert positions.tokens_of(wrapped, "a sks dog", (2, 5)) == [1, 2, 3]
    assert positions.tokens_of(wrapped, "a sks dog", (6, 9)) == [4]


def without(key):
    return lambda entry: entry.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("trigger"), "lacks"),
        (without("clip_tokens"), "lacks"),
        (lambda entry: entry.update(trigger=" "), "no trigger"),
        (lambda entry: entry.update(t5_tokens=9), "have the shape"),
        (lambda entry: entry.update(t5_length=10**9), "training length"),
    ],
)
def test_contradictions_in_a_file_are_named(comfy, change, message):
    told = concept_metadata([comfy.concept])
    (entry,) = json.loads(told["concepts"])
    change(entry)
    path = comfy.folder / "loras" / "bad.safetensors"
    save_file({"lora_concept.dog": comfy.vectors}, path, {**told, "concepts": json.dumps([entry])})
    with pytest.raises(ValueError, match=message):
        comfy.load(concept="bad.safetensors")


def test_files_that_are_not_concepts_are_named(comfy):
    with pytest.raises(ValueError, match="contains no concept vectors"):
        comfy.load(concept="dog.safetensors")
    save_file({}, comfy.folder / "loras" / "new.safetensors", {"purecc_format": "2", "concepts": "[]"})
    with pytest.raises(ValueError, match="format 2"):
        comfy.load(concept="new.safetensors")
    (comfy.folder / "loras" / "torn.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="can't be read"):
        comfy.load(concept="torn.safetensors")
    (comfy.folder / "loras" / "x.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="never opened"):
        comfy.load(concept="x.pt")
    with pytest.raises(ValueError, match=r"gone\.safetensors"):
        comfy.load(concept="gone.safetensors")


@pytest.mark.parametrize("model", [stand_ins.Model(BLOCKS + 1, WIDTH), stand_ins.Model(BLOCKS, WIDTH + 1)])
def test_a_concept_of_another_model_is_refused(comfy, model):
    with pytest.raises(ValueError, match="Load the model that it was trained on"):
        comfy.load(model=model)
    _, _, conditioning = comfy.load()
    with pytest.raises(ValueError, match="trained on another model"):
        streams(model, conditioning)


def test_a_model_of_another_family_is_refused(comfy):
    with pytest.raises(ValueError, match=r"not SD 3\.5"):
        comfy.load(model=SimpleNamespace(model=SimpleNamespace(diffusion_model=SimpleNamespace())))


def test_the_choices_are_safetensors_of_both_folders_concepts_first(comfy):
    (comfy.folder / "embeddings" / "old.pt").write_bytes(b"")
    (comfy.folder / "embeddings" / "a_concept.safetensors").write_bytes(b"")
    choices = comfy.nodes.PureCCConceptLoader.INPUT_TYPES()["required"]["concept_name"][0]
    assert choices == ["none", "a_concept.safetensors", "dog_concept.safetensors", "dog.safetensors"]


def test_a_file_trained_again_is_loaded_again(comfy):
    state = comfy.nodes.PureCCConceptLoader.IS_CHANGED
    before = state("dog.safetensors", "dog_concept.safetensors", text="any")
    assert state("dog.safetensors", "dog_concept.safetensors", text="other") == before
    save_concepts(
        comfy.folder / "loras" / "dog_concept.safetensors", {"dog": torch.zeros(BLOCKS, 2, WIDTH)}, [comfy.concept]
    )
    assert state("dog.safetensors", "dog_concept.safetensors", text="any") != before


def test_the_package_needs_only_torch_safetensors_and_comfyui():
    allowed = {"torch", "safetensors", "comfy", "folder_paths"} | set(sys.stdlib_module_names)
    for path in PACKAGE.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert {name.partition(".")[0] for name in names} <= allowed, path.name
