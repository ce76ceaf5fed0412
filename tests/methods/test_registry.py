"""A method is one registered object, the only source for settings, help, plan, step and saved states."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from library.adapters.penalties import SquaredChange
from library.config.fields import setting
from library.config.files import add_settings_to, as_tables, command_line_parser, read_settings
from library.config.groups import groups, setting_names
from library.config.reference import settings_reference
from library.errors import ConfigError
from library.methods import METHODS, Method, register
from library.methods.ewc import EWCSettings
from library.methods.lora import objective
from library.methods.method import PenaltyTerm
from library.methods.reads import LORA, RIVAL
from library.preflight.plan import describe_plan
from library.report.log import read_log
from library.training.run import Run
from tests.helpers.places import ROOT
from tests.helpers.runs import assert_equal_files, stopped_after, student_file

MODEL = {"pretrained_model_name_or_path": "m"}


@dataclass(frozen=True, kw_only=True)
class TetherSettings:
    """The settings of these tests' rival."""

    tether_weight: float = setting(0.5, "tether: how short the tether is.", at_least=0)


def tether_penalties(settings):
    weight = settings.of_method(TetherSettings).tether_weight
    return [PenaltyTerm("tether", weight, lambda student: SquaredChange(student.layers))]


def refuse_half(settings):
    if settings.of_method(TetherSettings).tether_weight == 0.25:
        raise ConfigError("tether_weight is 0.25, which tethers nothing.", "Set another.")


TETHER = Method(
    name="tether",
    trains="a LoRA on a tether",
    reads=RIVAL,
    own=TetherSettings,
    defaults={"network_dim": 3},
    student=objective,
    penalties=tether_penalties,
    check=refuse_half,
    remarks=lambda settings: ["A tether is no leash."],
)


@pytest.fixture
def tether():
    """The rival, registered during a test."""
    register(TETHER)
    yield TETHER
    del METHODS[TETHER.name]


def test_settings_help_and_docs_know_a_method_that_was_registered(tether, capsys):
    assert setting_names()["tether_weight"] == "method"
    parser = command_line_parser("")
    add_settings_to(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help_all"])
    for said in (capsys.readouterr().out, settings_reference()):
        assert "tether_weight" in said and "how short the tether is" in said
    notices = []
    settings = read_settings(None, {**MODEL, "method": "tether", "tether_weight": 2, "dco_beta": 3.0}, notices)
    assert settings.of_method(TetherSettings).tether_weight == 2.0 and settings.network.network_dim == 3
    assert any("does not use dco_beta" in one for one in notices) and TETHER.remarks(settings)[0] in notices
    assert "tether_weight" in as_tables(settings)["method"]
    assert "tether_weight" not in as_tables(read_settings(None, MODEL))["method"], "PureCC does not read it"


def test_mistakes_in_a_methods_settings_are_reported_like_all_others(tether):
    for given, said in (
        ({"method": "tetherr"}, '"tether"'),
        ({"method": "tether", "tether_weight": -1}, "tether_weight is -1; it must be at least 0"),
        ({"method": "tether", "tether_weight": 0.25}, "tethers nothing"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_settings(None, {**MODEL, **given})


def test_a_method_that_is_registered_no_more_is_unknown(tether):
    del METHODS[tether.name]
    try:
        assert "tether_weight" not in setting_names()
        with pytest.raises(ConfigError, match="method is 'tether'"):
            read_settings(None, {**MODEL, "method": "tether"})
    finally:
        METHODS[tether.name] = tether


def test_a_method_from_outside_trains_saves_and_resumes(tether, plan_of, monkeypatch):
    given = {"method": "tether", "tether_weight": 0.1, "max_train_steps": 2}
    plan = plan_of(**given)
    assert describe_plan(plan).startswith("Method: tether, which trains a LoRA on a tether.")
    whole = Run(plan)
    whole.train()
    expected, rows = student_file(whole), read_log(whole.log.path)
    assert [row["step"] for row in rows] == [1, 2] and rows[0]["tether"] == 0 < rows[1]["tether"]
    stopped_after(1, Run(plan_of(**given)), monkeypatch)
    resumed = Run(plan_of(**given, resume="auto"))
    resumed.train()
    assert_equal_files(expected, student_file(resumed))
    assert all(torch.isfinite(one).all() for one in expected.values())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "lora"}, "method lora is already"),
        ({"own": EWCSettings}, "setting ewc_fisher_samples already"),
        ({"reads": LORA | {"learning_rte"}}, "reads learning_rte"),
        ({"reads": LORA | {"seed"}}, "reads seed"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_can_not_be_registered(changed, said):
    about = {"name": "tether", "trains": "a", "reads": RIVAL, "student": objective, **changed}
    with pytest.raises(ValueError, match=said):
        register(Method(**about))
    assert "tether" not in METHODS


def test_own_settings_are_given_back_typed_and_only_while_their_method_is_there():
    settings = read_settings(None, {**MODEL, "method": "ewc", "ewc_fisher_samples": 7})
    assert isinstance(settings.method, groups()["method"])
    assert settings.of_method(EWCSettings).ewc_fisher_samples == 7
    with pytest.raises(TypeError, match="TetherSettings"):
        settings.of_method(TetherSettings)


def test_settings_are_read_without_pytorch():
    """Help and errors in settings don't wait for it."""
    code = "import sys, purecc_train; assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
