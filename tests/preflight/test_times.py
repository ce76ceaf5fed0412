"""The prediction of time: it adds up what was counted, at a speed that it names."""

import itertools
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from library.config.gpus import CARDS, START, Speed, card_of_size
from library.errors import ConfigError
from library.models.memory.live_memory import LiveMemory
from library.models.memory.operations import META
from library.models.memory.work import Work
from library.preflight.fit import card_of
from library.preflight.forecast import GIB, forecast
from library.preflight.times import (
    COPIED,
    SIDE,
    STARTED,
    describe_times,
    phase_seconds,
    planned_steps,
    speed_for,
    step_seconds,
    steps_after,
)

FAST = Speed("fast", 1e15, 1e12, known=True)


def test_every_operation_counts_what_it_computes_and_what_it_reads_and_writes():
    x, row = torch.zeros(64, 1024, device=META), torch.zeros(1, 1024, device=META)
    layer = nn.Linear(1024, 256, bias=False, device=META)
    with LiveMemory() as memory, torch.no_grad():
        layer(x.view(64, 1024)[:, :])
    assert memory.work.operations == {(2 * 64 * 1024 * 256, 4 * (64 * 1024 + 1024 * 256 + 64 * 256), False): 1}
    with LiveMemory() as memory:
        x.add_(1)
        torch.empty(10**6, device=META)
        row.expand(64, -1).sum()
    assert memory.work.operations == {(0, 2 * x.nbytes, False): 1, (0, 4 * 1024 + 4, False): 1}


def test_an_operation_takes_as_long_as_what_limits_it():
    work = Work()
    work.add(10**12, 10, attention=False)
    assert work.seconds(FAST) == pytest.approx(1e-3)
    assert work.seconds(replace(FAST, known=False)) == pytest.approx(1e-3 / 0.8)
    work.add(10, 10**10, attention=False)
    assert work.seconds(FAST) == pytest.approx(11e-3)
    work.add(1, 1, attention=True)
    assert work.seconds(FAST) == pytest.approx(11e-3 + START) and work.count == 3


def test_the_slowest_card_of_a_size_stands_for_it():
    assert card_of_size(8).name == "RTX 4060" and card_of_size(8.5).memory == 8 and card_of_size(4).memory == 6
    for one in CARDS.values():
        assert card_of_size(one.memory).flops <= one.flops


def test_the_time_of_a_stage_grows_with_its_steps_and_every_phase_has_one(plan_of):
    plan = plan_of(vram_gb=8.0)
    seconds = phase_seconds(plan, predicted := forecast(plan), speed_for(plan.settings, plan.parts.model))
    assert all(one > 0 for one in seconds.values())
    longer = plan_of(vram_gb=8.0, max_train_steps=6, replay_images=8)
    more = phase_seconds(longer, predicted, speed_for(longer.settings, longer.parts.model))
    assert more["stage 2, student"] == pytest.approx(3 * seconds["stage 2, student"])
    assert more["replay"] == pytest.approx(2 * seconds["replay"])
    assert more["stage 1, extractor"] == seconds["stage 1, extractor"]


def test_what_comes_after_a_stage_is_counted_in_its_own_steps(plan_of):
    plan = plan_of(extractor_train_steps=4, max_train_steps=8)
    predicted = forecast(plan)
    seconds, each = phase_seconds(plan, predicted, FAST), step_seconds(plan, predicted, FAST)
    after = steps_after(plan, predicted, FAST, passes=0)
    assert after["student"] * each["student"] == pytest.approx(seconds["sheets"])
    assert after["extractor"] * each["extractor"] == pytest.approx(8 * each["student"] + seconds["sheets"])
    assert steps_after(plan, predicted, replace(FAST, flops=1e14, bandwidth=1e11, start=10 * START), passes=0) == (
        pytest.approx(after)
    ), "a slower computer takes as many steps"
    card = steps_after(plan, predicted, FAST, passes=1000)
    assert card["student"] > after["student"] and card["extractor"] > after["extractor"]


def test_steps_are_planned_for_the_card_at_hand_alone(plan_of, monkeypatch):
    plan = plan_of(gradient_accumulation_steps=2)
    predicted = forecast(plan)
    assert planned_steps(plan, predicted) == {}, "a processor has other work as well"
    plan.parts.model.device = torch.device("cuda")
    monkeypatch.setattr("library.preflight.times.measured_speed", lambda device, dtype: FAST)
    once = {name: step.seconds(FAST) for name, step in predicted.steps.items()}
    assert planned_steps(plan, predicted) == {name: 2 * seconds for name, seconds in once.items()}
    another = plan_of(card="RTX 3060")
    another.parts.model.device = torch.device("cuda")
    assert planned_steps(another, predicted) == {}


def test_swapped_blocks_take_at_least_as_long_as_their_way(plan_of):
    plan = plan_of(gradient_checkpointing=True, blocks_to_swap=1)
    step = forecast(plan).steps["student"]
    assert step.seconds(FAST) == max(step.footprint.work.seconds(FAST), step.moved / 12e9)
    assert replace(step, moved=10**12).seconds(FAST) == pytest.approx(1000 / 12)


def test_the_speed_is_that_of_the_card_that_is_named_or_else_tried(plan_of, monkeypatch):
    plan = plan_of(card="RTX 3060")
    speed = speed_for(plan.settings, plan.parts.model)
    assert (speed.name, card_of(plan.settings, plan.parts.model.device)) == ("RTX 3060", 12 * GIB)
    said = "\n".join(describe_times(plan, forecast(plan), speed))
    assert "RTX 3060 (25.5 TFLOPS, 360 GB/s according to its maker" in said and "not measured" in said
    assert re.search(r"total \d+ (s|min) to \d+ (s|min); a step takes", said)
    here = plan_of()
    clock = itertools.count(step=0.5)
    monkeypatch.setattr("library.preflight.times.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    speed = speed_for(here.settings, here.parts.model)
    assert (speed.known, speed.flops, speed.start) == (True, 2 * SIDE["cpu"] ** 3 / 0.5, 0.5 / STARTED)
    assert speed.bandwidth == 2 * COPIED["cpu"] / 0.5
    assert "measured just now" in next(describe_times(here, forecast(here), speed))
    with pytest.raises(ConfigError, match='Did you mean "RTX 3060"'):
        plan_of(card="RTX 3061")
