"""What `--dry_run --json` says is what the dry run says in words."""

import json
import sys

import pytest

import purecc_train
from library.preflight.dry_run import dry_run_tables
from library.preflight.finding import Finding
from library.preflight.fit import describe_fit
from library.preflight.forecast import GIB, forecast
from tests.helpers.tiny import tiny_settings


def test_the_numbers_are_those_of_the_words(plan_of):
    plan = plan_of(card="RTX 3060")
    predicted, found = forecast(plan), [Finding("Too dark.", "Use a lamp.")]
    tables = json.loads(json.dumps(dry_run_tables(plan, found, predicted, [], 12 * GIB)))
    words = describe_fit(plan, predicted, [], 12 * GIB)

    assert tables["findings"] == [{"what": "Too dark.", "remedy": "Use a lamp."}]
    assert tables["pictures"] == 4 and tables["stage_steps"] == {"extractor": 2, "student": 2}
    assert tables["card"] == {"bytes": 12 * GIB, "fits": True} and "Fits a GPU with 12.0 GiB" in words
    assert tables["memory"]["peak"] == max(tables["memory"]["phases"].values())
    for phase, size in tables["memory"]["phases"].items():
        assert f"{phase + ':':<20}{size / GIB:6.2f} GiB" in words
    assert f"Disk: {tables['disk']['cache'] / 1e6:.0f} MB of cache" in words
    assert tables["time"]["on"] == "RTX 3060" and tables["time"]["measured"] is False
    least, most = tables["time"]["between"]
    assert least < tables["time"]["together"] < most
    assert tables["time"]["together"] == pytest.approx(sum(tables["time"]["phases"].values()))


def test_the_command_says_json_and_nothing_else(plan_of, tiny_model, tmp_path, monkeypatch, capsys):
    plan_of()  # writes the files that the settings name
    words = ["purecc_train.py", "--dry_run", "--json", "--dataset_config", str(tmp_path / "dataset.toml")]
    for name, value in tiny_settings(tiny_model, tmp_path).items():
        if value is False:
            words.append(f"--no_{name}")
        else:
            words += [f"--{name}", *([] if value == [] else [str(value)])]
    monkeypatch.setattr(sys, "argv", words)
    purecc_train.main([])
    assert json.loads(capsys.readouterr().out)["pictures"] == 4
