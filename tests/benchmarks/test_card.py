"""The command for the first real card: its short form answers every question, and a failure is a line."""

import json

import pytest

from benchmarks.card import __main__ as command
from benchmarks.card.questions import QUESTIONS, Question


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of the short form on the CPU."""
    folder = tmp_path_factory.mktemp("card")
    return command.ask_all(folder, short=True, minutes=60, names=list(QUESTIONS))


def test_the_short_form_answers_every_question(page):
    answers = json.loads(page.with_suffix(".json").read_text())["answers"]
    assert {name: answers[name]["failed"] for name in QUESTIONS} == dict.fromkeys(QUESTIONS)
    assert all(answers[name]["rows"] for name in QUESTIONS)
    wrong = [row for one in answers.values() for row in one["rows"] if row.get("verdict") == "WRONG"]
    assert not wrong
    said = page.read_text()
    assert all(question.about in said for question in QUESTIONS.values()) and "FAILED" not in said


def test_what_fails_is_a_line_and_the_next_call_goes_on_with_what_is_left(tmp_path, monkeypatch):
    asked = []

    def broken(scale):
        asked.append("broken")
        raise RuntimeError("CUDA error: an illegal memory access\nand more")

    def well(scale):
        asked.append("well")
        return [{"ms": 1.5}]

    found = {"broken": Question("It breaks", broken, {}), "well": Question("It works", well, {"ms": "ms"})}
    monkeypatch.setattr("benchmarks.card.questions.QUESTIONS", found)
    page = command.ask_all(tmp_path, short=True, minutes=60, names=["broken"])
    assert "FAILED: RuntimeError: CUDA error: an illegal memory access" in page.read_text()
    assert "Not asked yet" in page.read_text()
    command.ask_all(tmp_path, short=True, minutes=60, names=["broken", "well"])
    assert asked == ["broken", "well"] and "| 1.50 |" in page.read_text()
