"""Padding that encoders don't read, and pictures that are seen without an encoder, as in sd-scripts."""

import pytest
import torch
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from library.config.files import read_settings
from library.models.interface import PromptBatch
from library.models.opening import load_model
from library.predictions import BASE, COMPLETE, TARGET
from tests.helpers.runs import ready
from tests.helpers.tiny import LENGTH

TEXTS = ["a dog", "a red dog in a city by a house", ""]
EVERY = {"clip_l_dropout_rate": 1.0, "clip_g_dropout_rate": 1.0, "t5_dropout_rate": 1.0}


def opened(folder, **given):
    values = {"pretrained_model_name_or_path": str(folder), "mixed_precision": "no", "device": "cpu"}
    return load_model(read_settings(None, {**values, "t5xxl_max_token_length": LENGTH, **given}).model)


def test_masked_encoders_read_as_transformers_own_do(tiny_model):
    model = opened(tiny_model, apply_lg_attn_mask=True, apply_t5_attn_mask=True)
    read = [
        one(TEXTS, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        for one in model.tokenizers
    ]
    with torch.no_grad():
        clips = [
            CLIPTextModelWithProjection.from_pretrained(tiny_model / part)(**given, output_hidden_states=True)
            for part, given in zip(("text_encoder", "text_encoder_2"), read, strict=False)
        ]
        t5 = T5EncoderModel.from_pretrained(tiny_model / "text_encoder_3")(**read[2]).last_hidden_state
    hidden = torch.cat([one.hidden_states[-2] for one in clips], dim=-1)
    for row, states in enumerate(model.encode_text(TEXTS)):
        torch.testing.assert_close(states.context[:LENGTH, : hidden.shape[-1]], hidden[row], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(states.context[LENGTH:], t5[row], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(states.pooled, torch.cat([one.text_embeds[row] for one in clips]))


def test_what_stands_behind_a_text_does_not_matter_to_a_masked_t5(tiny_model):
    """Its tokens' states are those of a shorter padding; unmasked, they are not."""
    for masked in (True, False):
        short, long = (
            opened(tiny_model, apply_t5_attn_mask=masked, t5xxl_max_token_length=length) for length in (8, 20)
        )
        (one,), (two,) = short.encode_text(["a dog"]), long.encode_text(["a dog"])
        begin, tokens = short.clip_length, short.count_tokens(["a dog"])[0][2].needed
        same = torch.allclose(one.context[begin : begin + tokens], two.context[begin : begin + tokens], atol=1e-5)
        assert same is masked


def test_a_mask_of_the_clips_leaves_the_text_itself_alone(tiny_model):
    """They read from left to right, so padding sees the text, but the text never sees padding."""
    plain, masked = (opened(tiny_model, apply_lg_attn_mask=one).encode_text(["a dog"])[0] for one in (False, True))
    tokens = opened(tiny_model).count_tokens(["a dog"])[0][0].needed
    torch.testing.assert_close(masked.context[:tokens], plain.context[:tokens])
    assert torch.equal(masked.pooled, plain.pooled)
    assert not torch.allclose(masked.context[tokens:LENGTH], plain.context[tokens:LENGTH])


def test_texts_are_kept_apart_by_what_was_read(tiny_model):
    found = {
        opened(tiny_model, apply_lg_attn_mask=lg, apply_t5_attn_mask=t5).text_fingerprint()
        for lg in (False, True)
        for t5 in (False, True)
    }
    assert len(found) == 4


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_dropped_encoder_leaves_zeros_where_its_states_were(plan_of, number):
    """CLIP-L's and CLIP-G's channels are side by side in the first tokens and in the pooled state, T5 follows."""
    plan = plan_of()
    model = plan.parts.model
    plan.parts.texts.prepare(["a dog"])
    prompts = PromptBatch.of([plan.parts.texts["a dog"]] * 2, ["dog"] * 2)
    dropped = torch.zeros(2, 3, dtype=torch.bool)
    dropped[1, number] = True
    left = model.without_encoders(prompts, dropped)
    assert torch.equal(left.context[0], prompts.context[0]) and torch.equal(left.pooled[0], prompts.pooled[0])
    clip, pooled = prompts.context[1, :LENGTH].clone(), prompts.pooled[1].clone()
    t5 = prompts.context[1, LENGTH:].clone()
    if number == 2:
        t5.zero_()
    else:
        part = slice(0, 16) if number == 0 else slice(16, 32)
        clip[:, part], pooled[part] = 0, 0
    assert torch.equal(left.context[1], torch.cat([clip, t5])) and torch.equal(left.pooled[1], pooled)
    assert not torch.equal(left.context, prompts.context), "the states in the cache are left alone"


def test_all_prompts_of_a_picture_lack_the_same_encoders_at_the_rates_asked_for(plan_of):
    run = ready(plan_of(clip_l_dropout_rate=0.5, t5_dropout_rate=0.25))
    stage = run.student_stage()
    plain = ready(plan_of(overwrite=True)).student_stage()
    counts = torch.zeros(3)
    for number in range(60):
        for kind in ("reference", "replay"):
            scene, whole = (getattr(one.scenes, kind)(number) for one in (stage, plain))
            assert torch.equal(scene.noise, whole.noise) and torch.equal(scene.image, whole.image)
            gone = {}
            for name, batch in scene.prompts.items():
                clip = batch.context[:, :LENGTH]
                gone[name] = [
                    [not one.any() for one in states]
                    for states in zip(clip[..., :16], clip[..., 16:32], batch.context[:, LENGTH:], strict=True)
                ]
                assert batch.tokens == whole.prompts[name].tokens, "the concept's vectors stay"
            assert len({str(one) for one in gone.values()}) == 1, gone
            counts += torch.tensor(next(iter(gone.values()))).sum(0)
            again = getattr(stage.scenes, kind)(number)
            assert all(torch.equal(again.prompts[name].context, one.context) for name, one in scene.prompts.items())
    clip_l, clip_g, t5 = (counts / 240).tolist()
    assert clip_g == 0 and abs(clip_l - 0.5) < 0.1 and abs(t5 - 0.25) < 0.1


def test_without_any_encoder_texts_are_told_apart_by_vectors_alone(plan_of):
    run = ready(plan_of(**EVERY, context_vectors=0))
    scene = run.student_stage().scenes.reference(0)
    assert {COMPLETE, BASE, TARGET} <= set(scene.prompts)
    assert not any(batch.context.any() or batch.pooled.any() for batch in scene.prompts.values())


def test_textual_inversion_reads_its_words_again_and_says_that_it_does_not_use_these():
    notices = []
    given = {"pretrained_model_name_or_path": "m", "method": "textual_inversion", "t5_dropout_rate": 0.5}
    assert read_settings(None, given, notices).data.t5_dropout_rate == 0
    assert any("does not use t5_dropout_rate" in notice for notice in notices)
