"""Embedding dropout: some pictures are shown to the student without its vectors, so that the word alone learns, too."""

from dataclasses import replace

import pytest
import torch

from library.dual_branch_scheduler import Branch
from library.errors import ConfigError
from library.objectives import BASE, COMPLETE, EXTRACTOR, GUIDE, STUDENT, TARGET, Prediction, given
from library.training.run import Run


def student_stage(plan):
    """A stage 2 whose vectors have moved away from the class word's states, so that they have an effect."""
    run = Run(plan)
    run.open_log()
    run.prepare()
    run.build_extractor()
    run.build_student()
    for embeddings in run.student.branch.embeddings.values():
        embeddings.moved.data.add_(1.0)
    return run.student_stage()


def scene_with(stage, rows):
    return replace(stage.scenes.reference(0), word_alone=torch.tensor(rows))


def test_without_dropout_no_picture_is_shown_without_vectors(plan_of):
    scenes = student_stage(plan_of()).scenes
    assert scenes.reference(0).word_alone is None and scenes.replay(0).word_alone is None


def test_stage_1_never_leaves_its_vectors_out(plan_of):
    run = Run(plan_of(embedding_dropout=0.5))
    run.open_log()
    run.prepare()
    run.build_extractor()
    assert run.extractor_stage().scenes.reference(0).word_alone is None


def test_a_left_out_row_is_predicted_from_the_word_and_its_neighbour_from_the_vectors(plan_of):
    stage = student_stage(plan_of(embedding_dropout=0.5, replay_images=0, context_vectors=0))
    scene, branches, reading = stage.scenes.reference(0), stage.branches, given(STUDENT, COMPLETE)

    def complete(rows):
        return branches.predict(scene_with(stage, rows))[reading]

    with_vectors, from_word, mixed = complete([False, False]), complete([True, True]), complete([True, False])
    bare = {**branches.branches, STUDENT: Branch({}, {}, default=branches.branches[STUDENT].default)}
    branches.branches = bare
    without = branches.predict(replace(scene, word_alone=None))[reading]
    torch.testing.assert_close(from_word, without)
    torch.testing.assert_close(mixed, torch.stack([from_word[0], with_vectors[1]]), rtol=1e-4, atol=1e-5)
    assert (with_vectors - from_word).flatten(1).abs().amax(1).min() > 1e-3


def test_all_of_the_students_prompts_leave_out_the_same_rows_and_no_other_branch_any(plan_of):
    scene = scene_with(student_stage(plan_of(embedding_dropout=0.5, context_vectors=0)), [True, False])
    for prompt in (COMPLETE, BASE, TARGET):
        whole = scene.prompts[prompt].tokens
        assert scene.prompts_of(Prediction(STUDENT, prompt)).tokens == ((), whole[1])
        for branch in (EXTRACTOR, GUIDE):
            assert scene.prompts_of(Prediction(branch, prompt)).tokens == whole
    assert all(scene.prompts[COMPLETE].tokens), "both rows name the concept, or this shows nothing"


def test_which_pictures_follows_from_seed_and_step_and_changes_nothing_else(plan_of):
    scenes = student_stage(plan_of(embedding_dropout=0.25)).scenes
    plain = student_stage(plan_of(overwrite=True)).scenes
    drawn = torch.stack([scenes.reference(number).word_alone for number in range(200)])
    again = torch.stack([scenes.reference(number).word_alone for number in range(200)])
    assert torch.equal(drawn, again)
    assert 0.15 < drawn.float().mean() < 0.35
    assert not torch.equal(drawn[:, 0], drawn[:, 1]), "each picture is drawn for itself"
    assert torch.equal(scenes.reference(7).x_t, plain.reference(7).x_t)
    assert torch.equal(scenes.replay(7).x_t, plain.replay(7).x_t)


def test_a_run_with_dropout_is_another_training_and_ends_well(plan_of):
    losses = []
    for dropout in (0.0, 0.9):
        stage = student_stage(plan_of(embedding_dropout=dropout, overwrite=True))
        losses.append([stage.step()["concept"] for _ in range(2)])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("none", ["student_embeddings", "concept_embeddings"])
def test_there_must_be_vectors_to_leave_out(plan_of, none):
    with pytest.raises(ConfigError, match="no embeddings to leave out"):
        plan_of(embedding_dropout=0.5, **{none: "none"})
