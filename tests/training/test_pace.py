"""A run says when a stage will end, by the time that its first steps take."""

from types import SimpleNamespace

import pytest

from library.training.pace import TIMED, EndOfStage


@pytest.fixture
def said(capsys):
    """`said(seconds, steps, first=0)`: what is said of a stage whose steps take so long."""

    def told(seconds, steps, first=0):
        listener = EndOfStage()
        listener.stage_begun(SimpleNamespace(steps=steps))
        for number, one in enumerate(seconds, first + 1):
            listener.step_made({"stage": "student", "step": number}, one)
        return capsys.readouterr().err

    return told


def test_the_end_follows_from_steps_after_the_first_which_warms_up(said):
    out = said([60.0] + TIMED * [3.0] + [3.0], 400)
    assert out.count("Measured") == 1 and "a step of the student takes 3 s" in out
    assert f"in {(400 - 1 - TIMED) * 3 / 60:.0f} min, at" in out


def test_a_continued_stage_counts_what_is_left_of_it(said):
    assert "in 60 s, at" in said([1.0] * (1 + TIMED), 400, first=400 - 60 - 1 - TIMED)


def test_nothing_is_said_of_a_stage_that_is_over_by_then(said):
    assert said([1.0] * TIMED, 400) == "" and said([1.0] * (1 + TIMED), 1 + TIMED) == ""
