"""Context vectors learn what a subject's pictures share, separately from [V], and are then dropped."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from library.chance import generator_for
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.evaluation.budget import spent
from library.flow import interpolate
from library.hierarchical_embedding_injector import ConceptToken
from library.models.interface import PromptBatch
from library.objectives import SurroundingsTerm
from library.parts.context import Context, name_of, places
from library.predictions import PRETRAINED, REPLAY, REPLAY_COMPLETE, STUDENT, Prediction, Truth, given, learned
from library.prepare.regions import class_region, split
from tests.helpers.predictions import velocities
from tests.helpers.runs import prepared

VECTORS = {"context_vectors": 2, "context_train_steps": 3}


def test_values_in_two_heaps_are_split_between_them():
    values = torch.tensor([[[0.1, 5.0, 0.2], [4.8, 0.15, 5.2]]])
    assert torch.equal(split(values), (values > 1).float())


def test_the_vectors_stand_on_padding_alone(plan_of):
    parts = prepared(plan_of(**VECTORS)).parts
    for text in ("", "a dog in the city", "a dog " * 20):
        needed = {count.encoder: count.needed for count in parts.model.count_tokens([text])[0]}
        for token in places(parts, "dog", text):
            if token.position < parts.model.clip_length:
                assert token.position >= max(needed["CLIP-L"], needed["CLIP-G"])
            else:
                assert token.position - parts.model.clip_length >= needed["T5"]
    assert len(places(parts, "dog", "")) == 4 and not places(parts, "dog", "a dog " * 20)


def test_context_vectors_start_as_nothing_and_learn_what_is_around_the_subject(plan_of):
    run = prepared(plan_of(**{**VECTORS, "context_train_steps": 40, "context_lr": 0.1}))
    parts, vectors = run.parts, run.context.vectors["dog"]
    picture = run.plan.shown[0]
    image = run.latents.mean(picture)[None]
    outside = 1 - class_region(parts, picture.concept, image[0])
    text = picture.prompts[0].base
    plain = PromptBatch.of([parts.texts[text]], ["dog"])
    with_context = run.context.add_to(plain, [text], [True], parts)

    def loss(branch: Branch, prompts: PromptBatch) -> float:
        total = 0.0
        for level in (0.5, 0.7, 0.9):
            noise = torch.randn(image.shape, generator=generator_for(1, str(level)))
            sigma = torch.tensor([level])
            with torch.no_grad():
                velocity = parts.velocity(branch, interpolate(image, noise, sigma), sigma, [prompts])
            total += float(((velocity - (noise - image)).square() * outside).mean())
        return total

    assert not vectors.vectors().requires_grad
    assert loss(run.context.beside(PRETRAINED_BRANCH), with_context) < loss(PRETRAINED_BRANCH, plain)
    assert loss(run.context.beside(PRETRAINED_BRANCH), plain) == loss(PRETRAINED_BRANCH, plain)


def test_a_second_run_finds_its_context_in_the_cache_and_another_caption_does_not(plan_of, monkeypatch):
    clock = itertools.count(step=7.0)
    monkeypatch.setattr("library.prepare.context_vectors.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    run = prepared(plan_of(**VECTORS))
    first, seconds = run.context.vectors["dog"].vectors(), spent(run.folder)["context"]
    monkeypatch.setattr("library.prepare.context_vectors.learn_vectors", lambda *_: pytest.fail("learned again"))
    again = prepared(plan_of(overwrite=True, **VECTORS))
    assert torch.equal(again.context.vectors["dog"].vectors(), first)
    assert spent(again.folder)["context"] == seconds == 7, "what a comparison of methods counts is no luck of the cache"
    with pytest.raises(pytest.fail.Exception):
        prepared(plan_of(overwrite=True, **{**VECTORS, "context_lr": 0.5}))


def test_only_pictures_that_show_the_concept_get_its_context(plan_of):
    run = prepared(plan_of(**VECTORS))
    prompt = run.parts.texts[run.plan.triples[0].complete]
    batch = PromptBatch.of([prompt, prompt], ["dog", "dog"])
    with_context = run.context.add_to(batch, [prompt.text] * 2, [True, False], run.parts)
    names = [{token.concept for token in row} for row in with_context.tokens]
    assert name_of("dog") in names[0] and name_of("dog") not in names[1]
    assert set(run.context.beside(Branch({}, {})).embeddings) == {name_of("dog")}, "a LoRA alone sees the context, too"


def test_no_vectors_leave_prompts_and_branches_as_they_are(plan_of):
    run = prepared(plan_of(context_vectors=0))
    prompt = run.parts.texts[run.plan.triples[0].complete]
    batch = PromptBatch.of([prompt], ["dog"])
    assert run.context == Context() and run.context.add_to(batch, [prompt.text], [True], run.parts) is batch
    token = ConceptToken(0, "dog", 0)
    assert token.of_trigger


def test_the_surroundings_term_looks_outside_the_class_alone():
    tied, to = Prediction(STUDENT, REPLAY_COMPLETE), Prediction(PRETRAINED, REPLAY)
    region = torch.zeros(1, 1, 4, 4)
    region[..., :2] = 1
    v = {tied: torch.zeros(1, 2, 4, 4), to: torch.zeros(1, 2, 4, 4)}
    term = SurroundingsTerm(learned(STUDENT, REPLAY_COMPLETE), given(PRETRAINED, REPLAY))

    def loss(**change) -> float:
        changed = {
            **v,
            tied: v[tied] + torch.where(region.bool(), change.get("inside", 0.0), change.get("outside", 0.0)),
        }
        truth = Truth(torch.zeros(1, 2, 4, 4), torch.zeros(1), region=region)
        return float(term(velocities(changed, truth, truth)))

    assert loss(inside=5.0) == 0 and loss(outside=2.0) == 2.0
