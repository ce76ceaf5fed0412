"""Ties in turns: one per batch, by seed, stage and number; a round adds up to the sum of all."""

from collections import Counter

import pytest
import torch

from library.config.gpus import CARDS
from library.evaluation.budget import passes_of
from library.methods import method_of
from library.objectives import extractor_objective, student_objective
from library.predictions import EXTRACTOR, REPLAYED, STUDENT
from library.preflight.forecast import count_step
from library.report.charts import curves_of
from library.report.log import read_log
from library.training.run import Run
from tests.helpers.runs import ready_for_stage_2

TIES = {"pure", "anchor", "replay", "surroundings"}
"""Of the tiny run."""


def names(objective) -> set[str]:
    return {name for name, _, _ in objective.terms}


def turns_of(settings, batches: int) -> list[str]:
    objective = student_objective(settings)
    return [(names(objective.in_batch(number, 0.0)) - {"concept"}).pop() for number in range(batches)]


def test_a_batch_has_the_concept_loss_and_one_tie_and_a_round_has_each_tie_once(plan_of):
    settings = plan_of(ties="turns").settings
    objective = student_objective(settings)
    for number in range(8):
        assert len(objective.in_batch(number, 0.0).terms) == 2 and "concept" in names(objective.in_batch(number, 0.0))
    turns = turns_of(settings, 12 * len(TIES))
    rounds = [tuple(turns[begin : begin + len(TIES)]) for begin in range(0, len(turns), len(TIES))]
    assert all(set(one) == TIES for one in rounds)
    assert len(set(rounds)) > 1, "the order is drawn anew for each round"
    assert len(Counter(one[0] for one in rounds)) > 1


def test_whose_turn_it_is_follows_from_seed_stage_and_number(plan_of):
    one, other = plan_of(ties="turns", seed=1).settings, plan_of(ties="turns", seed=2).settings
    assert turns_of(one, 24) == turns_of(one, 24) != turns_of(other, 24)
    tied = plan_of(ties="turns", extractor_replay_weight=1.0).settings
    stages = [
        [
            [weight for name, weight, _ in objective.in_batch(number, 0.0).terms if name == "anchor"]
            for number in range(0, 24)
        ]
        for objective in (extractor_objective(tied), student_objective(tied))
    ]
    assert stages[0] != stages[1]
    assert {frozenset(names(extractor_objective(tied).in_batch(number, 0.0))) for number in range(6)} == {
        frozenset({"concept", "anchor"}),
        frozenset({"concept", "replay"}),
    }


@pytest.mark.parametrize("preset", [{}, {"eta": 0.0}, {"merged": True}, {"concept_loss_weight": 0.0}])
def test_over_a_round_the_weights_are_those_of_all_terms_together(plan_of, preset):
    everything = student_objective(plan_of(ties="all", **preset).settings)
    turning = student_objective(plan_of(ties="turns", **preset).settings)
    assert turning.readings == everything.readings
    count = len(turning.kinds)
    assert len(everything.kinds) == 1 and count > 1
    sums: Counter[str] = Counter()
    for number in range(count):
        for name, weight, _ in turning.in_batch(number, 0.0).terms:
            sums[name] += weight / count
    assert sums == pytest.approx({name: weight for name, weight, _ in everything.terms})


def test_the_mean_gradient_of_a_round_is_that_of_all_terms_on_the_same_batch(plan_of):
    run = ready_for_stage_2(plan_of(ties="turns"))
    stage = run.student_stage()
    weight = run.parts.network.layers[next(iter(run.parts.network.layers))].adapters["student"].up
    reference, replay = stage.scenes.reference(0), stage.scenes.replay(0)

    def gradient(objective) -> torch.Tensor:
        weight.grad = None
        objective(stage.branches.predict(reference, replay, readings=objective.readings)).total.backward()
        return weight.grad.clone()

    each = torch.stack([gradient(kind) for kind in stage.objective.kinds]).mean(0)
    torch.testing.assert_close(each, gradient(stage.objective), rtol=1e-3, atol=1e-6)


def test_nothing_is_predicted_that_the_batch_does_not_read(plan_of):
    stage = ready_for_stage_2(plan_of(ties="turns")).student_stage()
    for kind in stage.objective.kinds:
        read = {reading.prediction for reading in kind.readings}
        passes = stage.branches.passes(kind.readings)
        made = {one for group in (*passes.with_gradient, *passes.without_gradient) for one in group}
        assert made == read
        assert kind.replays is any(one.prompt in REPLAYED for one in read)
    counts = {
        tuple(sorted(names(kind) - {"concept"})): stage.branches.passes(kind.readings).counts
        for kind in stage.objective.kinds
    }
    assert counts == {("pure",): (1, 3), ("anchor",): (2, 1), ("replay",): (2, 1), ("surroundings",): (2, 1)}


@pytest.mark.parametrize("accumulated", [1, 3])
def test_a_term_that_was_not_in_a_step_has_no_point_in_its_curve(plan_of, accumulated):
    plan = plan_of(ties="turns", max_train_steps=4, gradient_accumulation_steps=accumulated)
    Run(plan).train()
    rows = [row for row in read_log(plan.settings.output_dir / "log.jsonl") if row["stage"] == STUDENT]
    turns = turns_of(plan.settings, 4 * accumulated)
    for number, row in enumerate(rows):
        expected = set(turns[number * accumulated : (number + 1) * accumulated])
        assert TIES & row.keys() == expected
        assert ("lambda_star" in row) is ("pure" in expected)
        for bin_ in row["by_sigma"].values():
            assert not TIES & bin_.keys() - expected
    curves = {curve.name: len(curve.points) for curve in curves_of(rows, dict.fromkeys(TIES | {"concept"}, ""))}
    assert curves == {"concept": 4, **Counter(name for row in rows for name in TIES & row.keys())}


def test_a_run_stopped_in_the_middle_of_a_round_ends_as_one_that_never_stopped(plan_of, tmp_path):
    kept = {"ties": "turns", "max_train_steps": 6, "extractor_train_steps": 3, "save_state_every_n_steps": 1}
    kept |= {"lr_scheduler": "constant", "save_state_on_train_end": True}
    whole = Run(plan_of(**kept, output_dir=str(tmp_path / "whole")))
    whole.train()
    first = {**kept, "max_train_steps": 2, "output_dir": str(tmp_path / "parts")}
    Run(plan_of(**first)).train()
    Run(plan_of(**{**first, "max_train_steps": 6, "resume": "auto"})).train()
    one, two = (
        [{k: v for k, v in row.items() if k != "it_s"} for row in read_log(tmp_path / folder / "log.jsonl")]
        for folder in ("whole", "parts")
    )
    assert one == two and [row["stage"] for row in one] == [EXTRACTOR] * 3 + [STUDENT] * 6
    assert (tmp_path / "whole" / "tiny.safetensors").read_bytes()[-4096:] == (
        tmp_path / "parts" / "tiny.safetensors"
    ).read_bytes()[-4096:]


def test_the_forecast_has_the_memory_of_the_heaviest_batch_and_the_time_of_the_mean(plan_of):
    def count(**settings):
        two = {"replay_images": 0, "surroundings_weight": 0.0, "context_vectors": 0, "student_embeddings": "fresh"}
        return count_step(plan_of(**two, **settings), STUDENT)

    step, whole, card = count(ties="turns"), count(ties="all"), CARDS["RTX 3060"]
    each = [count(ties="all", anchor_weight=0.0), count(ties="all", eta=0.0)]
    heaviest = max(one.footprint.transient for one in each)
    assert step.footprint.transient == pytest.approx(heaviest, rel=0.01)
    assert step.flops == pytest.approx(sum(one.flops for one in each) / 2) and step.flops < 0.8 * whole.flops
    assert step.seconds(card) == pytest.approx(sum(one.seconds(card) for one in each) / 2, rel=0.01)


def test_a_budget_in_passes_counts_the_mean_of_the_batches(plan_of):
    # concept and pure: 1 + 3; concept and each of three ties: 2 + 1; a pass with gradient counts three times
    assert passes_of(plan_of(ties="turns")).each[STUDENT] == pytest.approx((6 + 3 * 7) / 4)
    assert passes_of(plan_of(ties="all")).each[STUDENT] == 4 * 3 + 4


def test_rivals_do_not_know_turns(plan_of):
    for method in ("lora", "dop", "prior_preservation"):
        settings = plan_of(method=method, ties="turns").settings
        objective = method_of(settings).student(settings, False)
        assert [one.terms for one in (*objective.kinds, objective.in_batch(3, 0.0))] == [objective.terms] * 2
