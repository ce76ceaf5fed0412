"""The trigger word learns to work without the vectors, and only the LoRA is shown as the student."""

import json

import pytest
import torch
from safetensors import safe_open

from library.adapters.files import concept_file_for, load_concepts
from library.dual_branch_scheduler import Branch
from library.objectives import TieTerm, WordTerm, student_objective
from library.parts.parts import STUDENT_ADAPTER
from library.predictions import COMPLETE, REPLAY_COMPLETE, STUDENT, WORD, given, learned
from library.training.listeners import Listener
from library.training.run import Run
from library.turns import Growing
from tests.helpers.runs import ready_for_stage_2

TAUGHT = {"ties": "turns", "word_weight": 3.0, "eta": 0.0}


def test_the_tie_is_of_the_lora_alone_to_the_student_with_its_vectors(plan_of):
    terms = {name: (weight, term) for name, weight, term in student_objective(plan_of(**TAUGHT).settings).terms}
    assert terms["word"] == (Growing(3.0), WordTerm(learned(WORD, COMPLETE), given(STUDENT, COMPLETE), 0.3))
    on_replayed = WordTerm(learned(WORD, REPLAY_COMPLETE), given(STUDENT, REPLAY_COMPLETE), 0.3)
    assert terms["word_replayed"] == (Growing(3.0), on_replayed)


@pytest.mark.parametrize("without", [{"word_weight": 0.0}, {"student_embeddings": "none"}])
def test_no_vectors_or_no_weight_and_there_is_nothing_to_teach(plan_of, without):
    plan = plan_of(**{**TAUGHT, **without})
    assert not {"word", "word_replayed"} & {name for name, _, _ in student_objective(plan.settings).terms}
    student = ready_for_stage_2(plan).student
    assert student.shown is student.branch


def test_its_weight_grows_from_a_tenth_over_the_stage(plan_of):
    settings = plan_of(**TAUGHT).settings
    kinds = len(student_objective(settings).kinds)

    def weights(progress: float) -> set[float]:
        batches = (student_objective(settings).in_batch(number, progress) for number in range(kinds))
        return {round(w, 6) for batch in batches for name, w, _ in batch.terms if name.startswith("word")}

    assert weights(0.0) == {round(0.3 * kinds, 6)} and weights(1.0) == {3.0 * kinds}
    assert weights(0.5) == {round(1.65 * kinds, 6)}


def test_the_word_costs_one_learned_prediction_on_the_photos(plan_of):
    stage = ready_for_stage_2(plan_of(**TAUGHT)).student_stage()
    counts = {
        kind.terms[-1][0]: stage.branches.passes(kind.readings).counts
        for kind in stage.objective.kinds
        if kind.terms[-1][0].startswith("word")
    }
    assert counts == {"word": (2, 0), "word_replayed": (2, 1)}


def test_the_vectors_learn_nothing_from_the_word(plan_of):
    run = ready_for_stage_2(plan_of(**TAUGHT))
    stage = run.student_stage()
    word = next(kind for kind in stage.objective.kinds if kind.terms[-1][0] == "word_replayed")
    v = stage.branches.predict(stage.scenes.reference(0), stage.scenes.replay(0), readings=word.readings)
    word.terms[-1][2](v).sum().backward()
    assert all(weight.grad is None for one in run.student.branch.embeddings.values() for weight in one.parameters())


def test_the_states_of_its_tokens_are_compared_with_the_vectors(plan_of):
    stage = ready_for_stage_2(plan_of(**TAUGHT)).student_stage()
    word = next(kind for kind in stage.objective.kinds if kind.terms[-1][0] == "word")
    v = stage.branches.predict(stage.scenes.reference(0), readings=word.readings)
    assert (v.distance(learned(WORD, COMPLETE)) > 0).all() and not v.distance(given(STUDENT, COMPLETE)).any()
    tie = TieTerm(learned(WORD, COMPLETE), given(STUDENT, COMPLETE))
    expected = tie(v) + 0.3 * v.distance(learned(WORD, COMPLETE))
    torch.testing.assert_close(word.terms[-1][2](v), expected)


def test_what_is_shown_is_what_the_file_does_by_the_word_alone(plan_of):
    """Sheets, validation, report card and samples before the first step, through the listeners."""
    seen: list[Branch] = []

    class Looks(Listener):
        def student_begins(self, branch, stage):
            seen.append(branch)

        def student_finished(self, parts, branch, files):
            seen.append(branch)

    run = Run(plan_of(**TAUGHT))
    run.listeners.add([Looks()])
    run.train()
    assert seen == [Branch({}, {}, default=STUDENT_ADAPTER)] * 2
    with safe_open(str(run.folder / "tiny_concept.safetensors"), framework="pt") as file:
        (entry,) = json.loads(file.metadata()["concepts"])
    assert entry["optional"] is True


def test_tools_leave_optional_vectors_out_until_they_are_named(plan_of):
    run = Run(plan_of(**TAUGHT))
    run.train()
    lora, beside = run.folder / "tiny.safetensors", run.folder / "tiny_concept.safetensors"
    vectors, saved = concept_file_for(lora, None).load()
    assert vectors == {} and saved[0].trigger == "sks"
    assert set(concept_file_for(lora, str(beside)).load()[0]) == {"dog"} == set(load_concepts(beside)[0])
    assert concept_file_for(lora, "none") is None


def test_vectors_that_carry_the_concept_are_always_used(plan_of):
    run = Run(plan_of(**{**TAUGHT, "word_weight": 0.0}))
    run.train()
    assert set(concept_file_for(run.folder / "tiny.safetensors", None).load()[0]) == {"dog"}
