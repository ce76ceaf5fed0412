"""Optimizers by name, and their states in saved files."""

import importlib.util
import sys

import pytest
import torch

from library.config.files import read_settings
from library.config.optimizers import KNOWN
from library.config.settings import OptimizerSettings
from library.errors import ConfigError, ModelError
from library.files.checkpoint import Position, SavedState, StateFolder, flatten, load_state, unflatten
from library.optim import build_lr_scheduler, build_optimizer, check_optimizer, shown, take
from library.preflight.plan import stage_rates

OPTIMIZERS = ["AdamW", "AdamW8bit", "PagedAdamW8bit", "Prodigy", "torch.optim.SGD", "adamw"]


def trained(name: str, steps: int, weight: torch.nn.Parameter, optimizer=None, first: int = 0):
    settings = OptimizerSettings(optimizer_type=name)
    if optimizer is None:
        optimizer = build_optimizer([{"params": [weight], "lr": 1.0 if name == "Prodigy" else 0.01}], settings)
    for step in range(first, first + steps):
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_continues_from_its_saved_state(name, tmp_path):
    whole = torch.nn.Parameter(torch.ones(64, 128))  # large enough for 8-bit states
    trained(name, 4, whole)
    part = torch.nn.Parameter(torch.ones(64, 128))
    half = trained(name, 2, part)
    states = StateFolder(tmp_path / "state")
    states.save(SavedState(Position({"student": 2}), {}, {"optimizer": half.state_dict(), "weight": part}))
    saved = load_state(states.newest(), {})
    again = torch.nn.Parameter(saved.tree["weight"])
    fresh = build_optimizer(
        [{"params": [again], "lr": 1.0 if name == "Prodigy" else 0.01}], OptimizerSettings(optimizer_type=name)
    )
    fresh.load_state_dict(saved.tree["optimizer"])
    trained(name, 2, again, fresh, first=2)
    assert torch.equal(again, whole) and not torch.equal(again, part)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer_type": "AdamV"}, 'Did you mean "AdamW"?'),
        ({"optimizer_type": "torch.optim.Adamm"}, "can't be imported"),
        ({"optimizer_type": "nowhere.Adam"}, "can't be imported"),
        ({"optimizer_args": ["decay=1"]}, "does not take these settings"),
        ({"optimizer_args": ["weight_decay"]}, 'not of the form "name=value"'),
        ({"lr_scheduler_type": "CosineLR"}, 'lr_scheduler_type: "CosineLR" can\'t be imported'),
        ({"lr_scheduler_type": "nowhere.Cosine"}, "can't be imported"),
        ({"lr_scheduler_type": "CosineAnnealingLR"}, "does not take these settings"),
        ({"lr_scheduler_type": "StepLR", "lr_scheduler_args": ["step_size"]}, 'lr_scheduler_args: "step_size" is not'),
        ({"lr_scheduler_type": "ReduceLROnPlateau"}, "lr_scheduler_type ReduceLROnPlateau can't be used"),
        ({"optimizer_type": "Prodigy"}, "Prodigy and D-Adaptation need 1"),
        ({"optimizer_type": "os.system"}, "system is not an optimizer of os"),
        (
            {"optimizer_type": "torch.optim.lr_scheduler.StepLR"},
            "StepLR is not an optimizer of torch.optim.lr_scheduler",
        ),
        ({"optimizer_type": "..Adam"}, "can't be imported"),
        ({"optimizer_type": "zzz"}, "write module.Class"),
    ],
)
def test_a_mistake_is_reported_before_training(settings, said):
    with pytest.raises(ConfigError) as error:
        check_optimizer(OptimizerSettings(**settings), [[1e-4, 1e-3]])
    assert said in str(error.value)


def test_a_schedule_of_another_package_follows_its_arguments():
    settings = OptimizerSettings(lr_scheduler_type="StepLR", lr_scheduler_args=["step_size=2", "gamma=0.5"])
    optimizer = build_optimizer([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0}], settings)
    schedule, rates = build_lr_scheduler(optimizer, settings, 100), []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_the_timescale_of_inverse_sqrt():
    settings = OptimizerSettings(lr_scheduler="inverse_sqrt", lr_scheduler_timescale=4)
    optimizer = build_optimizer([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0}], settings)
    schedule = build_lr_scheduler(optimizer, settings, 100)
    for _ in range(12):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)  # (1 + 12 / 4) ** -0.5


def test_arguments_reach_the_optimizer():
    settings = OptimizerSettings(optimizer_args=["weight_decay=0.5", "betas=(0.8, 0.9)"])
    (group,) = build_optimizer([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.1}], settings).param_groups
    assert (group["weight_decay"], group["betas"], group["lr"]) == (0.5, (0.8, 0.9), 0.1)


def test_warm_up_rises_from_zero():
    settings = OptimizerSettings(lr_scheduler="cosine", lr_warmup_steps=2)
    optimizer = build_optimizer([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.1}], settings)
    scheduler, rates = build_lr_scheduler(optimizer, settings, 6), []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:3] == [0.0, 0.05, 0.1] and rates[2:] == sorted(rates[2:], reverse=True)


def test_a_nested_state_comes_back_as_it_was():
    state = {"a": {0: torch.arange(3), 1: [1, 2.5, None, "x", (True, 2)]}, 7: {}}
    tensors = {}
    back = unflatten(flatten(state, tensors), tensors)
    assert torch.equal(back["a"].pop(0), state["a"].pop(0)) and back == state


def test_the_two_newest_states_are_kept_and_a_strange_one_is_refused(tmp_path):
    states = StateFolder(tmp_path / "state")
    assert states.newest() is None
    for step in (1, 2, 3):
        states.save(SavedState(Position({"extractor": 4, "student": step}), {"eta": 1.0}, {}))
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["step-00000006", "step-00000007"]
    with pytest.raises(ConfigError, match=r"eta was 1\.0 .* is 2\.0 now"):
        load_state(states.newest(), {"eta": 2.0})
    (states.newest() / "state.json").write_text("{")
    with pytest.raises(ModelError, match="is not a readable state"):
        load_state(states.newest(), {"eta": 1.0})


@pytest.mark.parametrize(
    ("settings", "rises", "ends_at"),
    [
        ({"lr_scheduler": "cosine_with_min_lr", "lr_warmup_steps": 0.2, "lr_scheduler_min_lr_ratio": 0.1}, 4, 0.1),
        ({"lr_scheduler": "warmup_stable_decay", "lr_warmup_steps": 2, "lr_decay_steps": 0.5}, 2, 0.0),
        ({"lr_scheduler": "inverse_sqrt", "lr_warmup_steps": 4}, 4, 0.46),
        ({"lr_scheduler": "linear", "lr_warmup_steps": 0.25}, 5, 0.0),
    ],
)
def test_schedules_of_sd_scripts(settings, rises, ends_at):
    """A warm-up below 1 is a share of the stage; each schedule ends where it should, and its state can be saved."""
    settings = OptimizerSettings(**settings)
    optimizer = build_optimizer([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0}], settings)
    scheduler, rates = build_lr_scheduler(optimizer, settings, 20), []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:rises] == sorted(rates[:rises]) and rates[0] == 0 and rates[rises] == pytest.approx(1)
    assert rates[-1] == pytest.approx(ends_at, abs=0.11)
    flatten(scheduler.state_dict(), {})


class Without:
    """A finder of modules for which one package is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("AdamWScheduleFree", "schedulefree", "schedulefree"),
        ("Lion", "lion_pytorch", "lion-pytorch"),
        ("DAdaptation", "dadaptation", "dadaptation"),
        ("dadaptadanip", "dadaptation", "dadaptation"),
        ("Prodigy", "prodigyopt", "prodigyopt"),
        ("bitsandbytes.optim.Adam8bit", "bitsandbytes", "bitsandbytes"),
    ],
)
def test_a_missing_package_is_named_as_it_is_installed(name, module, package, monkeypatch):
    for loaded in [one for one in sys.modules if one.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(sys, "meta_path", [Without(module), *sys.meta_path])
    with pytest.raises(ConfigError, match=name) as error:
        check_optimizer(OptimizerSettings(optimizer_type=name), [[1.0]])
    assert error.value.remedy == f"pip install {package}"


def test_every_short_name_whose_package_is_there_makes_a_step():
    made = []
    for name in KNOWN:
        if importlib.util.find_spec(KNOWN[name].partition(".")[0]):
            arguments = ["relative_step=False"] if name == "AdaFactor" else []
            check_optimizer(OptimizerSettings(optimizer_type=name, optimizer_args=arguments), [[1.0, 1.0]])
            made.append(name)
    assert {"AdamW", "AdamW8bit", "SGDNesterov", "SGDNesterov8bit", "Prodigy"} <= set(made)
    check_optimizer(OptimizerSettings(optimizer_type="RAdam"), [[1.0]])


def test_nesterov_has_momentum_unless_it_is_given_another():
    weight = torch.nn.Parameter(torch.ones(2))
    for arguments, momentum in (([], 0.9), (["momentum=0.5"], 0.5)):
        settings = OptimizerSettings(optimizer_type="sgdnesterov", optimizer_args=arguments)
        (group,) = build_optimizer([{"params": [weight], "lr": 1.0}], settings).param_groups
        assert (group["momentum"], group["nesterov"]) == (momentum, True)


def rates_of(**given):
    """The rates of each stage and the messages, for settings with an optimizer."""
    notices = []
    settings = read_settings(None, {"pretrained_model_name_or_path": "m", **given}, notices)
    rates = stage_rates(settings)
    check_optimizer(settings.optimizer, [list(stage.values()) for stage in rates.values()])
    return {stage: tuple(one.values()) for stage, one in rates.items()}, notices, settings


@pytest.mark.parametrize(
    ("given", "extractor", "student", "said"),
    [
        ({}, (1, 1), (1, 1), ["learning_rate = 1", "embedding_lr = 1"]),
        ({"learning_rate": 1}, (1, 1), (1, 1), ["embedding_lr = 1"]),
        ({"learning_rate": 2, "embedding_lr": 0.01}, (2, 2), (2, 2), ["embedding_lr = 2"]),
        ({"learning_rate": 1, "embedding_lr": 1}, (1, 1), (1, 1), []),
        ({"learning_rate": 1, "embedding_lr": 0}, (1, 0), (1, 0), []),
        ({"learning_rate": 0, "embedding_lr": 1}, (0, 1), (0, 1), []),
        ({"learning_rate": 1, "extractor_learning_rate": 0.5}, (0.5, 0.5), (1, 1), ["extractor_embedding_lr = 0.5"]),
        ({"learning_rate": 1, "extractor_embedding_lr": 0.5}, (1, 1), (1, 1), ["extractor_embedding_lr = 1"]),
        ({"learning_rate": 1, "loraplus_lr_ratio": 4}, (1, 1), (1, 1), ["loraplus_lr_ratio"]),
        ({"learning_rate": 1e-4, "embedding_lr": 1e-4}, (1e-4, 1e-4), (1e-4, 1e-4), ["learning_rate is 0.0001"]),
        ({"learning_rate": 1, "method": "lora"}, (1, 1), (1, 1), []),
        ({"method": "textual_inversion"}, (1, 1), (1, 1), ["embedding_lr = 1"]),
        ({"unet_lr": 1}, (1, 1), (1, 1), ["embedding_lr = 1"]),
    ],
)
@pytest.mark.parametrize("name", ["Prodigy", "prodigyopt.Prodigy"])
def test_prodigy_has_one_rate_and_it_is_reported(name, given, extractor, student, said):
    rates, notices, _ = rates_of(optimizer_type=name, **given)
    assert (rates["extractor"], rates["student"]) == (extractor, student)
    about = [notice for notice in notices if name in notice]
    assert all(any(text in notice for notice in about) for text in said) and bool(about) == bool(said)


def test_rates_that_are_not_numbers_are_reported_as_usual():
    with pytest.raises(ConfigError, match="embedding_lr is 'fast'"):
        rates_of(optimizer_type="Prodigy", embedding_lr="fast")
    with pytest.raises(ConfigError, match="learning_rate is 'fast'"):
        rates_of(optimizer_type="Prodigy", learning_rate="fast")


def test_a_schedule_free_optimizer_has_no_schedule():
    notices = []
    given = {"lr_scheduler": "cosine", "lr_warmup_steps": 10, "optimizer_type": "AdamWScheduleFree"}
    settings = read_settings(None, {"pretrained_model_name_or_path": "m", **given}, notices)
    assert (settings.optimizer.lr_scheduler, settings.optimizer.lr_warmup_steps) == ("constant", 0)
    (notice,) = [one for one in notices if "AdamWScheduleFree" in one]
    assert "lr_scheduler, lr_warmup_steps" in notice
    assert not [one for one in rates_of(optimizer_type="AdamW")[1] if "AdamW" in one]


# Optimizers whose result is an average of the weights that they train with


def test_to_look_at_an_average_changes_no_bit():
    weight = torch.nn.Parameter(torch.ones(64))
    settings = OptimizerSettings(optimizer_type="tests.helpers.averaging.Averaging")
    optimizer = build_optimizer([{"params": [weight], "lr": 0.1}], settings)
    steps = []
    for step in range(3):
        weight.grad = torch.randn(64, generator=torch.Generator().manual_seed(step))
        optimizer.step()
        steps.append(weight.detach().clone())
        with pytest.raises(KeyError), shown(optimizer):
            torch.testing.assert_close(weight.detach(), torch.stack(steps).mean(0))
            raise KeyError
        assert torch.equal(weight, steps[-1])
    take(optimizer)
    torch.testing.assert_close(weight.detach(), torch.stack(steps).mean(0))
