"""Everything that touches a device runs on a pretended card as on the CPU; see tools/pretended_card."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.card.checks import CHECKS
from tests.card.drive import RESULTS
from tests.card.runs import CASES
from tests.helpers.places import ROOT

WAITS = {"extractor": 3, "student": 3}
"""How often a step may wait for the card, at most."""


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Any]:
    """What the driver found, in a process of its own."""
    folder = tmp_path_factory.mktemp("card")
    command = [sys.executable, "-m", "tests.card.drive", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (folder / RESULTS).is_file(), done.stderr[-3000:]
    found = json.loads((folder / RESULTS).read_text())
    if "no card" in found:
        pytest.skip(found["no card"])
    return found


@pytest.mark.parametrize("name", CHECKS)
def test_the_card_catches_what_a_card_catches(results, name):
    assert not results["wrong"][name]


@pytest.mark.parametrize("name", CASES)
def test_a_run_on_the_card_comes_to_what_it_comes_to_on_the_cpu(results, name):
    assert not results["wrong"][f"run {name}"]


def test_the_other_commands_come_to_the_same(results):
    assert not results["wrong"]["commands"]


def test_a_step_that_ran_out_of_memory_leaves_nothing_behind_and_is_made_in_less(results):
    assert not results["wrong"]["out of memory"]


@pytest.mark.parametrize("stage", WAITS)
def test_a_step_waits_for_the_card_a_few_times_only(results, stage):
    assert results["waits"]["pure"][stage] <= WAITS[stage]
