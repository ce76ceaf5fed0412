"""How well the model sees a trigger, and what the doctor says about one that it hardly sees."""

import pytest

from library.preflight.doctor import hidden_triggers
from library.prepare.visibility import COLOURS, SUGGESTED, Visibility, measured_visibility, texts_for
from tests.helpers.datasets import DATASET


def test_a_word_is_tried_where_the_trigger_stands(plan_of):
    (subject,) = plan_of().config.concepts
    texts = texts_for(subject)
    assert texts[""] == "dog" and texts["sks"] == "sks dog" and texts["red"] == "red dog"
    assert set(texts) == {"", "sks", *COLOURS, *SUGGESTED}
    (style,) = plan_of(DATASET.replace('class_word = "dog"', 'kind = "style"')).config.concepts
    assert texts_for(style)["blue"] == style.target.replace("[V]", "blue")


def test_every_word_moves_the_velocity_by_a_share_of_it(plan_of):
    plan = plan_of(DATASET.replace("sks", "red"))
    (seen,) = measured_visibility(plan.parts, plan.size).values()
    assert 0 < seen.colour < 1 and all(0 < one < 1 for one in seen.others.values())
    assert seen.trigger > 0 and not seen.hardly, "a trigger that is a colour moves it as colours do"


@pytest.mark.parametrize(("moves", "found"), [(0.01, 1), (0.05, 0)])
def test_the_doctor_names_a_trigger_that_is_hardly_seen_and_one_that_is(plan_of, monkeypatch, moves, found):
    seen = {"dog": Visibility(moves, 0.1, {"ohwx": 0.02, "qx": 0.09})}
    monkeypatch.setattr("library.preflight.doctor.measured_visibility", lambda *given: seen)
    said = hidden_triggers(plan_of(word_weight=1.0))
    assert len(said) == found
    if found:
        assert '"sks"' in said[0].what and "1.0%" in said[0].what and '"qx"' in said[0].remedy


def test_no_model_is_loaded_where_vectors_carry_the_concept(plan_of, monkeypatch):
    monkeypatch.setattr("library.preflight.doctor.measured_visibility", lambda *given: pytest.fail("loaded"))
    assert hidden_triggers(plan_of(word_weight=0.0)) == []
