"""Comparing methods: the same budget, equal tuning, and separate prompts for choosing and for judging."""

import json
from argparse import Namespace

import pytest

from library.config.dataset import Concept
from library.config.files import TomlFile, to_toml
from library.config.settings import Settings
from library.errors import ConfigError, PureCCError
from library.evaluation.budget import Cost, passes_of
from library.evaluation.compare import Arm, Trained, halves, length_of, run, settings_of
from library.evaluation.probes import read_probes
from library.evaluation.scorers.catalogue import ScorerEntry
from library.evaluation.scoring import Score, harmonic_mean
from library.predictions import EXTRACTOR, STUDENT
from library.training.run import Run
from tests.helpers.scorers import Plain

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


TWO_PICTURES = ScorerEntry("plain", "no one's", "0 MB", "none", (), {"fidelity": "likeness"}, lambda i, f, d: Plain(i))
NO_ENCODER = ScorerEntry("text", "no one's", "0 MB", "none", (), {"text": "following"}, lambda i, f, d: Plain(i))


def test_every_method_gets_the_same_rates_and_whole_weights_their_share_of_it(config, tmp_path):
    given = Namespace(checkpoints=2, config_file=str(config))
    steps = {EXTRACTOR: 4, STUDENT: 6}
    for method in ("lora", "dop", "purecc"):
        one: Settings = settings_of(Arm(method, 2.0), TomlFile(config), given, steps, tmp_path)
        assert one.optimizer.learning_rate == pytest.approx(2e-2) and one.method.method == method
        assert one.optimizer.max_train_steps == 6 and one.saving.save_every_n_steps == 3
    whole = settings_of(Arm("dreambooth", 2.0), TomlFile(config), given, steps, tmp_path)
    assert whole.optimizer.learning_rate == pytest.approx(1e-3)


def test_a_budget_buys_the_same_however_it_is_counted():
    cost = Cost({EXTRACTOR: 0.5, STUDENT: 0.5}, {EXTRACTOR: 4.0, STUDENT: 12.0}, before=40.0)
    assert cost.in_steps.steps_for(15, "purecc", "steps") == {EXTRACTOR: 8, STUDENT: 7}
    for passes in (200, 1000):
        steps = cost.steps_for(passes, "purecc", "passes")
        assert abs(40 + 4 * steps[EXTRACTOR] + 12 * steps[STUDENT] - passes) <= 16, "to within a step of each"
    with pytest.raises(ConfigError, match="of which 40 go into context vectors"):
        cost.steps_for(41, "purecc", "passes")


@pytest.mark.parametrize(("method", "passes"), [("lora", 3), ("dop", 7), ("prior_preservation", 6), ("dco", 4)])
def test_a_step_costs_what_its_losses_read(plan_of, method, passes):
    assert passes_of(plan_of(method=method)).each == {STUDENT: passes}


def test_fidelity_and_what_is_kept_must_both_be_there_to_be_chosen():
    assert harmonic_mean(1.0, 0.0) == harmonic_mean(-0.2, 1.0) == 0.0
    assert harmonic_mean(0.5, 0.5) == 0.5 > harmonic_mean(0.9, 0.1)


def test_what_chooses_is_not_what_judges():
    choosing, judging = halves(read_probes(None, DOG, [0, 1]))
    assert not {probe.shown for probe in choosing} & {probe.shown for probe in judging}
    assert {probe.kind for probe in choosing} == {probe.kind for probe in judging}


def test_a_comparison_continues_where_it_was_stopped_and_refuses_other_settings(config, tmp_path, monkeypatch):
    words = ["--config_file", str(config), "--methods", "lora,purecc", "--budget", "8", "--checkpoints", "2"]
    words += ["--rates", "1", "--strengths", "0.5", "--out", str(tmp_path / "compare")]
    assert "| purecc | 1 |" in run(words)
    steps = json.loads((tmp_path / "compare" / "budget.json").read_text())["steps"]
    assert steps == {"lora": {STUDENT: 8}, "purecc": {EXTRACTOR: 4, STUDENT: 4}}, "parted as in the config, 2 and 2"
    first = json.loads((tmp_path / "compare" / "compare.json").read_text())
    assert [one["method"] for one in first["methods"]] == ["lora", "purecc"]
    assert all(set(one["by_strength"]) == {"0.5", "1.0"} and len(one["tried"]) == 2 for one in first["methods"])
    assert all(one["steps"] <= 8 for one in first["methods"])
    drift = first["methods"][0]["by_strength"]
    assert drift["0.5"]["drift"]["class"]["value"] < drift["1.0"]["drift"]["class"]["value"]
    for name in ("compare.md", "compare.png", "grid.png"):
        assert (tmp_path / "compare" / name).is_file()

    def no_training(self):
        raise AssertionError("trained again")

    def no_scoring(*given):
        raise AssertionError("scored again")

    monkeypatch.setattr(Run, "train", no_training)
    monkeypatch.setattr("library.evaluation.audit.Auditor.shifts", no_scoring)
    run(words)
    assert json.loads((tmp_path / "compare" / "compare.json").read_text()) == first
    with pytest.raises(ConfigError, match="other settings"):
        run([*words, "--seed", "7"])
    with pytest.raises(ConfigError, match="budget 8"):
        run([*words, "--budget", "6"])


def test_an_image_encoder_says_how_like_the_references_a_method_draws(config, tmp_path, monkeypatch):
    words = ["--config_file", str(config), "--methods", "lora", "--budget", "40", "--budget_in", "passes"]
    words += ["--checkpoints", "2", "--rates", "1", "2", "--strengths", "1", "--out", str(tmp_path / "compare")]
    said = run([*words, "--fidelity", "tests.evaluation.test_compare:TWO_PICTURES"])
    assert "fidelity" in said.splitlines()[0] and "harmonic mean" in said
    (found,) = json.loads((tmp_path / "compare" / "compare.json").read_text())["methods"]
    score = Score.from_dict(found["by_strength"]["1.0"])
    assert score.as_dict() == found["by_strength"]["1.0"] and 0 <= score.kept <= 1
    assert found["passes"] <= 40 and found["tried"][found["file"].removesuffix(".safetensors") + ".safetensors"] == max(
        found["tried"].values()
    )
    assert length_of(tmp_path / found["file"], 13) == found["length"]


def test_costs_are_kept_as_they_were_and_not_rounded(tmp_path):
    arm, cost = Arm("purecc", 1.0), Cost({EXTRACTOR: 0.5, STUDENT: 0.5}, {EXTRACTOR: 3.0, STUDENT: 3.0}, before=0.25)
    steps, seconds = {EXTRACTOR: 4, STUDENT: 8}, {"context": 1e-5, EXTRACTOR: 2e-5, STUDENT: 8e-5}
    trained = Trained([arm], {}, {"purecc": steps}, {"purecc": cost}, {arm: seconds}, tmp_path)
    assert trained.paid(arm, 2) == {"steps": 6, "passes": 18.25, "seconds": pytest.approx(5e-5)}


def test_a_budget_in_seconds_is_timed_once_and_kept(config, tmp_path, monkeypatch):
    timed = []
    for module in ("budget", "compare"):  # by a clock of its own
        clock = lambda folder: timed.append(folder) or {"context": 0.0, EXTRACTOR: 0.0, STUDENT: 6 * 0.1}  # noqa: E731
        monkeypatch.setattr(f"library.evaluation.{module}.spent", clock)
    words = ["--config_file", str(config), "--methods", "lora", "--budget", "1", "--budget_in", "seconds"]
    words += ["--checkpoints", "1", "--rates", "1", "--strengths", "1", "--out", str(tmp_path / "compare")]
    assert "| lora | 1 |" in run(words)
    steps = json.loads((tmp_path / "compare" / "budget.json").read_text())["steps"]["lora"][STUDENT]
    assert steps == 10 and any(folder.parent.name == "timed" for folder in timed)
    timed.clear()
    run(words)
    assert timed == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--methods", "purec"], "purecc"),
        (["--methods", "textual_inversion"], "trains no LoRA"),
        (["--rates", "-1"], "--rates"),
        (["--budget_in", "passes"], "--budget_in passes also needs --budget"),
        (["--fidelity", "dinos"], "dino"),
        (["--fidelity", "dino"], "--fidelity dino: the folder"),
        (["--fidelity", "tests.evaluation.test_compare:NO_ENCODER"], "can't measure the likeness"),
        (["--budget", "3", "--checkpoints", "4"], "can't be saved"),
    ],
)
def test_a_wrong_option_is_named(config, words, says):
    with pytest.raises(PureCCError, match=says):
        run(["--config_file", str(config), *words])
