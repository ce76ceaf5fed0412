"""Methods beside each other: the same budget, equal tuning, chosen on other prompts than they are judged by."""

import json
from argparse import Namespace

import pytest

from library.config.dataset import Concept
from library.config.files import TomlFile, to_toml
from library.config.settings import Settings
from library.errors import ConfigError
from library.evaluation.compare import Arm, halves, run, settings_of
from library.evaluation.probes import read_probes
from library.training.run import Run

DOG = Concept(name="rex", trigger="sks", class_word="dog")


@pytest.fixture
def config(plan_of, tmp_path):
    """A config of the tiny model, in a file."""
    from library.config.files import as_tables

    plan = plan_of()
    (tmp_path / "audit.txt").write_text("a [V] dog city\na [V] dog\na dog\na red dog\na red house\na house\n")
    tables = as_tables(plan.settings)
    tables["data"]["dataset_config"] = str(tmp_path / "dataset.toml")
    tables["samples"]["audit_prompts"] = str(tmp_path / "audit.txt")
    (tmp_path / "run.toml").write_text(to_toml(tables))
    return tmp_path / "run.toml"


def test_every_method_gets_the_same_number_of_steps_and_the_same_rates(config, tmp_path):
    given = Namespace(checkpoints=2, config_file=str(config))
    for method in ("lora", "dop", "purecc"):
        one: Settings = settings_of(Arm(method, 2.0), TomlFile(config), given, 10, tmp_path)
        steps = one.optimizer.max_train_steps + (one.optimizer.extractor_train_steps if method == "purecc" else 0)
        assert steps == 10 and one.optimizer.learning_rate == pytest.approx(2e-2) and one.method.method == method


def test_what_chooses_is_not_what_judges():
    choosing, judging = halves(read_probes(None, DOG, [0, 1]))
    assert not {probe.shown for probe in choosing} & {probe.shown for probe in judging}
    assert {probe.kind for probe in choosing} == {probe.kind for probe in judging}


def test_a_comparison_goes_on_where_it_was_stopped_and_refuses_other_settings(config, tmp_path, monkeypatch):
    words = ["--config_file", str(config), "--methods", "lora,purecc", "--budget", "4", "--checkpoints", "2"]
    words += ["--rates", "1", "--strengths", "0.5", "--out", str(tmp_path / "compare")]
    assert "| purecc | 1 |" in run(words)
    first = json.loads((tmp_path / "compare" / "compare.json").read_text())
    assert [one["method"] for one in first["methods"]] == ["lora", "purecc"]
    assert all(set(one["by_strength"]) == {"0.5", "1.0"} and len(one["tried"]) == 2 for one in first["methods"])
    drift = first["methods"][0]["by_strength"]
    assert drift["0.5"]["drift"]["class"]["value"] < drift["1.0"]["drift"]["class"]["value"]
    for name in ("compare.md", "compare.png", "grid.png"):
        assert (tmp_path / "compare" / name).is_file()

    def no_training(self):
        raise AssertionError("trained again")

    monkeypatch.setattr(Run, "train", no_training)
    run(words)
    assert json.loads((tmp_path / "compare" / "compare.json").read_text()) == first
    with pytest.raises(ConfigError, match="other settings"):
        run([*words, "--seed", "7"])


@pytest.mark.parametrize(("words", "says"), [(["--methods", "purec"], "purecc"), (["--rates", "-1"], "--rates")])
def test_a_wrong_option_is_named(config, words, says):
    with pytest.raises(ConfigError, match=says):
        run(["--config_file", str(config), *words])
