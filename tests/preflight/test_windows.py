"""What a run meets on Windows, on a pretended one: a driver that hides a full card, long paths, no peak of memory."""

import sys
from itertools import chain, repeat
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest
import torch

from benchmarks.many_pictures import peak_mb
from library.preflight.checks import longest_paths
from library.preflight.finding import describe_findings
from library.preflight.fit import describe_fit, verdict
from library.preflight.forecast import GIB, forecast
from library.preflight.windows import MAX_PATH, longest_path, path_findings, spills
from library.report import phases
from library.report.page import render
from library.report.phases import Phase, Phases
from library.training.pace import BEYOND_FORECAST, MANY_TIMES, STEPS, Pace, PaceWarning
from library.training.run import Run
from tests.helpers.machines import said_of

PANEL = "CUDA - Sysmem Fallback Policy"
PLAIN = {"extractor_train_steps": 0, "concept_embeddings": "none", "student_embeddings": "none"}


@pytest.fixture
def windows(monkeypatch):
    pretend(monkeypatch, "win32")


def pretend(monkeypatch, platform: str) -> None:
    """For the project alone: libraries would look for what is not there."""
    monkeypatch.setattr("library.preflight.windows.sys", SimpleNamespace(platform=platform))


# The card's own memory


def test_the_doctor_compares_with_what_is_free_of_the_cards_own_memory_and_names_the_switch():
    held = {"free": 7 * GIB}
    assert PANEL not in said_of(held) and "7.0 GiB are free" in said_of(held)
    said = said_of({**held, "spills": True})
    assert "7.0 GiB are free" in said and "many times as long" in said and PANEL in said
    assert said_of({"spills": True}) == "No problems found."


def test_a_plan_that_does_not_fit_says_what_windows_does_about_it(plan_of, windows, monkeypatch):
    plan, planned = plan_of(), plan_of(vram_gb=4.0)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (3 * GIB, 4 * GIB))
    predicted = forecast(plan)
    assert PANEL not in describe_fit(plan, predicted, [], 24 * GIB)
    assert PANEL not in describe_fit(plan, predicted, [], GIB), "it is planned on a processor"
    plan.parts.model.device = torch.device("cuda")
    described = "\n".join(verdict(plan, predicted, GIB))
    assert PANEL in described and "many times as long" in described and "3.0 of 4.0 GiB of GPU memory" in described
    planned.parts.model.device = torch.device("cuda")
    described = "\n".join(verdict(planned, predicted, GIB))
    assert PANEL in described and "free now" not in described


def test_only_windows_with_a_card_spills(monkeypatch):
    for platform, works, does in (("win32", True, True), ("win32", False, False), ("linux", True, False)):
        pretend(monkeypatch, platform)
        assert spills(works) is does


# Steps that take many times as long


def said_by(pace: Pace, seconds) -> list[str]:
    return [said for one in seconds if (said := pace.slower(one))]


def test_steps_that_become_many_times_as_long_are_noticed_and_ordinary_ones_are_not():
    begin = [30.0, *[2.0] * STEPS]
    assert said_by(Pace(), [*begin, *[2.0 * MANY_TIMES - 0.1] * 50]) == []
    assert said_by(Pace(), [*begin, *[2.0, 2.0, 60.0] * 20]) == [], "a step with a sheet or a validation"
    (first, *_) = said_by(Pace(), [*begin, *[12.0] * STEPS])
    assert "6 times as long as at the start (12 s instead of 2 s)" in first


def test_steps_that_are_long_from_the_begin_are_compared_with_the_plan():
    assert said_by(Pace(), [20.0] * 50) == said_by(Pace(20.0 / BEYOND_FORECAST), [20.0] * 50) == []
    assert "20 times as long as planned" in said_by(Pace(1.0), [20.0] * 50)[0]


@pytest.mark.parametrize("platform", ["win32", "linux"])
def test_a_run_says_once_that_its_steps_take_long(monkeypatch, capsys, platform):
    pretend(monkeypatch, platform)
    warning = PaceWarning({}, on_card=True)
    for stage in ("extractor", "student"):
        warning.stage_begun(SimpleNamespace(name=stage))
        for step, seconds in enumerate(chain(repeat(1.0, STEPS + 1), repeat(9.0, STEPS))):
            warning.step_made({"stage": stage, "step": step + 1}, seconds)
    said = capsys.readouterr().err
    assert said.count("9 times as long as at the start") == 1 and (PANEL in said) is (platform == "win32")


# Peak of memory


def test_a_peak_that_no_one_knows_is_shown_as_unknown(monkeypatch):
    monkeypatch.setattr(phases, "PROCESS_STATUS", Path("there is none"))
    measured = Phases(torch.device("cpu"))
    measured.begin("text")
    measured.end()
    (phase,) = measured.measured()
    assert phase.peak_bytes is None and phase.as_dict()["peak_bytes"] is None
    rows = [{"phase": Phase("text", 1.0, None), "share": 1.0}]
    assert "unknown" in render("cost.html", rows=rows, whole=1.0, memory="of the process")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_mb() == "unknown"


# Long paths


def test_every_folder_that_is_written_to_counts(plan_of, tmp_path):
    deep = tmp_path / ("a" * 120) / ("b" * 120)
    near = longest_paths(plan_of())
    for name, count in (("output_dir", 5), ("cache_dir", 1)):
        far = longest_paths(plan_of(**{name: str(deep / name)}, log_with="tensorboard"))
        assert sum(str(path).startswith(str(deep)) for path in far) == count, name
        said = describe_findings(list(path_findings(far, MAX_PATH)))
        assert str(deep / name) in said and "output_dir, cache_dir" in said and "LongPathsEnabled" in said
    assert not deep.exists(), "nothing is touched"
    assert list(path_findings(near, None)) == []


def test_the_longest_path_counts_to_the_letter():
    path = PureWindowsPath("C:/" + 10 * "x" + "/tiny.safetensors")
    assert list(path_findings([path], len(str(path)))) == []
    (finding,) = path_findings([path, PureWindowsPath("C:/x")], len(str(path)) - 1)
    assert str(path) in finding.what and str(len(str(path))) in finding.what


def test_what_a_run_writes_is_no_longer_than_what_was_said(plan_of):
    """Wherever it writes; of each folder the longest path was named."""
    plan = plan_of(log_with="tensorboard", save_every_n_steps=1)
    said = longest_paths(plan)
    Run(plan).train()
    for folder in (plan.settings.output_dir, Path(plan.settings.saving.cache_dir)):
        longest = max(len(str(path)) for path in said if folder in path.parents)
        assert all(len(str(path)) <= longest for path in folder.rglob("*")), folder


@pytest.mark.parametrize(("switched_on", "longest"), [(True, None), (False, MAX_PATH)])
def test_long_paths_may_be_switched_on(monkeypatch, windows, switched_on, longest):
    import ctypes

    library = SimpleNamespace(RtlAreLongPathsEnabled=lambda: int(switched_on))
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(ntdll=library), raising=False)
    assert longest_path() == longest
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(ntdll=SimpleNamespace()), raising=False)
    assert longest_path() == MAX_PATH
    pretend(monkeypatch, "linux")
    assert longest_path() is None
