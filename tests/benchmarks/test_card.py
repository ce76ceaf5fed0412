"""benchmarks.card: one result per check, kept and never repeated; a failure is a line."""

import json

import pytest

from benchmarks import card
from benchmarks.card import CHECKS, SETTINGS, TOLERANCES, Card, Failed, check, kernels, page, same_numbers
from benchmarks.kernels import KERNELS, NEEDS_CUDA, SWAP


@pytest.fixture
def processor(tmp_path):
    return Card("cpu", tmp_path, None, 1)


def test_every_way_has_a_tolerance():
    assert all(any(part in name for part in TOLERANCES) for name in SETTINGS)


def test_what_is_known_is_not_checked_again_and_what_fails_is_a_line(processor, monkeypatch):
    made = []

    def fails(_):
        made.append("numbers")
        raise Failed("exit code 1: no kernel image")

    monkeypatch.setitem(CHECKS, "numbers", fails)
    monkeypatch.setitem(CHECKS, "resume", lambda _: made.append("resume") or [{"what": "resume", "outcome": "equal"}])
    for _ in range(2):
        found = check(processor, ["numbers", "resume"])
    assert made == ["numbers", "resume"]
    assert json.loads((processor.folder / "card.json").read_text())["checks"].keys() == {"numbers", "resume"}
    text = page(found)
    assert "| numbers | exit code 1: no kernel image |" in text and "| resume | equal |" in text


def test_numbers_that_are_off_are_told_from_those_within_tolerance(processor, monkeypatch):
    def train(_, name, device, settings):
        if "nf4" in name:
            raise Failed("bitsandbytes has no kernel for this card")
        return [1.0, 1.5] if name == "fp16" else [1.0, 1.0]

    monkeypatch.setattr(card, "train", train)
    monkeypatch.setattr(card, "losses", lambda folder: folder)
    outcomes = {row["what"]: row["outcome"] for row in same_numbers(processor)}
    assert outcomes["float32"] == "as expected" and outcomes["fp16"] == "off"
    assert outcomes["bf16, nf4 weights"] == "bitsandbytes has no kernel for this card"


def test_attention_and_swapped_blocks_are_lines_where_there_is_no_gpu(processor):
    rows = kernels(processor)
    assert [row["what"] for row in rows][-1] == SWAP and len(rows) == len(KERNELS) + 1
    assert {row["outcome"] for row in rows} == {NEEDS_CUDA}


def test_the_trainings_of_the_checks_are_the_demo_cut_down(processor, monkeypatch):
    called = []
    monkeypatch.setattr(card, "called", lambda *words: called.append(words))
    folder = card.train(processor, "bf16, fused", "cpu", SETTINGS["bf16, fused"])
    (words,) = called
    assert words[0] == "purecc_train.py" and "--fused_backward_pass" in words and "--device=cpu" in words
    assert f"--output_dir={folder}" in words and folder.name == "bf16-fused-cpu"
