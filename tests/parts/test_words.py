"""Words that stand for the student's vectors: learned after training, for UIs without our nodes."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from library.parts.parts import STUDENT_ADAPTER
from library.parts.words import WordReader, made_words
from library.training.run import Run
from library.training.word_fit import WordFit, _effect_of_words, _learn, _scenes, _seen, _share

QUICK = {"extractor_train_steps": 1, "max_train_steps": 1, "eta": 0.0, "sample_seeds": 1}


def finished(plan_of, **settings):
    """A run at its end whose vectors have learned something, and what looks at it then."""
    run, look = Run(plan_of(**{**QUICK, **settings})), WordFit()

    def push(run):
        for vectors in run.student.branch.embeddings.values():
            vectors.moved.data += torch.randn(vectors.moved.shape, generator=torch.Generator().manual_seed(3))

    push.what = "a push"
    run.looks = [push, look]
    run.train()
    return run, look


def test_the_words_are_saved_shown_and_compared_with_the_vectors(plan_of, capsys):
    run, look = finished(plan_of, word_train_steps=2)
    (path,) = look.files
    assert path == run.folder / "tiny_embedding.safetensors"
    said = capsys.readouterr().err
    assert "tiny_embedding.safetensors: for UIs without our nodes; " in said and "of what the vectors do" in said
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"clip_l", "clip_g"} and file.metadata()["trigger"] == "sks"
        assert file.get_tensor("clip_l").shape == file.get_tensor("clip_g").shape == (3, 16)
    assert (run.folder / "samples" / "words.png").is_file()
    assert "tiny_embedding.safetensors" in (run.folder / "report.html").read_text()


def test_words_learn_what_words_can_do(plan_of):
    """Taught by other words instead of vectors, they come to do the same."""
    run = Run(plan_of(**QUICK))
    run.open_log()
    run.prepare()
    run.build_extractor()
    run.build_student()
    parts = run.parts
    goal, words = made_words(parts), made_words(parts)
    for row in goal.parameters():
        row.data += row.square().mean().sqrt() * torch.randn(row.shape, generator=torch.Generator().manual_seed(4))
    alone = replace(run.student.branch, embeddings={})
    taught_by, with_words = (replace(alone, reader=WordReader(parts, one)) for one in (goal, words))
    scenes, steps = _scenes(run), 60

    def share():
        return _share(parts.velocity, taught_by, with_words, alone, lambda step: _seen(scenes, steps + step))

    before = share()
    _learn(parts.velocity, words, taught_by, with_words, lambda step: _seen(scenes, step), steps)
    assert share() > max(0.8, before)


def test_words_that_do_less_than_nothing_are_not_said_in_percent():
    assert "26%" in _effect_of_words(0.26)
    assert "it does nothing yet" in _effect_of_words(-4.2) and "%" not in _effect_of_words(-4.2)


def test_nothing_else_learns(plan_of):
    one, _ = finished(plan_of, word_train_steps=3)
    two, _ = finished(plan_of, word_train_steps=0, output_dir=str(one.folder.parent / "other"))
    for first, second in zip(
        one.parts.network.parameters(STUDENT_ADAPTER), two.parts.network.parameters(STUDENT_ADAPTER), strict=True
    ):
        assert torch.equal(first, second)
    vectors = [run.student.branch.embeddings["dog"].vectors() for run in (one, two)]
    assert torch.equal(*vectors)


@pytest.mark.parametrize("settings", [{"word_train_steps": 0}, {"concept_embeddings": "none", "word_train_steps": 2}])
def test_without_steps_or_vectors_there_is_no_file(plan_of, settings):
    run, look = finished(plan_of, **settings)
    assert look.files == [] and not list(run.folder.glob("*embedding*"))


def test_words_that_fail_cost_no_run(plan_of, monkeypatch, capsys):
    monkeypatch.setattr("library.training.word_fit.made_words", lambda *given: 1 / 0)
    run, look = finished(plan_of, word_train_steps=2)
    assert "the words for UIs without our nodes could not be made (ZeroDivisionError" in capsys.readouterr().err
    assert (run.folder / "tiny.safetensors").is_file() and look.files == []
