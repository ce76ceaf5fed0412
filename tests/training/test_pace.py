"""A run says when a stage and the run will end, by the time that its first steps take."""

import time
from types import SimpleNamespace

import pytest

from library.training.listeners import Listener, Listeners
from library.training.pace import TIMED, WORTH_COUNTING, EndOfStage


@pytest.fixture
def said(capsys):
    """`said(seconds, steps, first=0, after=dict)`: what is said of a stage whose steps take so long."""

    def told(seconds, steps, first=0, after=dict, listeners=None):
        listener = EndOfStage(listeners or Listeners(), after)
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


@pytest.fixture
def at_noon(monkeypatch):
    """A clock that stands at 12:00 and knows no zones."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: 12 * 3600.0)
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone can't be set on Windows")
def test_the_end_of_the_run_follows_from_the_same_steps(said, at_noon):
    listeners, ends = Listeners(), []
    listeners.add([end := Listener()])
    end.end_predicted = ends.append
    out = said([60.0] + TIMED * [3.0], 400 + 1 + TIMED, after=lambda: {"student": 800}, listeners=listeners)
    assert "in 20 min, at 12:20. The run ends at about 13:00." in out and ends == [13 * 3600.0]
    assert "The run ends at about 12:30." in said([1.5] * (1 + TIMED), 400 + 1 + TIMED, after=lambda: {"student": 800})


def test_a_stage_that_is_nearly_over_counts_nothing(said):
    steps = int(WORTH_COUNTING) + TIMED
    assert "the run ends" not in said([1.0] * (1 + TIMED), steps, after=lambda: pytest.fail("counted")).lower()
    assert "the run ends" not in said([1.0] * (1 + TIMED), steps + 9, after=lambda: {"extractor": 9.0}).lower()
