"""Optimizers and learning-rate schedules, by sd-scripts' names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeGuard

import torch
from torch.optim import Optimizer

from library.config.fields import literal
from library.config.optimizers import ARGUMENTS, KNOWN, PACKAGES
from library.config.settings import OptimizerSettings
from library.environment import imported
from library.errors import ConfigError, did_you_mean
from library.files.checkpoint import flatten


def build_optimizer(groups: list[dict[str, Any]], settings: OptimizerSettings) -> Optimizer:
    """The optimizer of a stage.

    Args:
        groups: {"params": [...], "lr": ...} each; empty ones are left out.

    Raises:
        ConfigError: the optimizer is unknown, or does not take these arguments.
    """
    kind = _class_of(settings.optimizer_type)
    short = _short_name(settings.optimizer_type)
    arguments = dict(ARGUMENTS.get(short, {})) if short else {}
    arguments |= dict(_argument(text, "optimizer_args") for text in settings.optimizer_args)
    held = [group for group in groups if group["params"]]
    needed = inspect.signature(kind).parameters.get("lr")
    if held and needed and needed.default is needed.empty:
        arguments.setdefault("lr", held[0]["lr"])  # each group has its own
    try:
        optimizer = kind(held, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"optimizer_type {settings.optimizer_type} does not take these settings: {error}.",
            f"optimizer_args is {settings.optimizer_args}.",
        ) from error
    if is_averaging(optimizer):
        optimizer.train()
    return optimizer


class Averaging(Protocol):
    """An optimizer that trains with different weights than its result."""

    param_groups: list[dict[str, Any]]

    def train(self) -> object:
        """Switches the weights to those that it trains with."""

    def eval(self) -> object:
        """Switches the weights to its result."""


def is_averaging(optimizer: Optimizer) -> TypeGuard[Averaging]:
    """Whether an optimizer's result is an average of the weights that it trains with, as for schedule-free ones."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


@contextmanager
def shown(optimizer: Optimizer) -> Iterator[None]:
    """Inside, the weights are the optimizer's result, to be saved, drawn or measured; afterwards they are as before."""
    if not is_averaging(optimizer):
        yield
        return
    held = [weight for group in optimizer.param_groups for weight in group["params"]]
    before = [weight.detach().clone() for weight in held]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():  # to the bit, unlike train() after eval()
            for weight, was in zip(held, before, strict=True):
                weight.copy_(was)


def take(optimizer: Optimizer) -> None:
    """Replaces the weights with the optimizer's result."""
    if is_averaging(optimizer):
        optimizer.eval()


def check_optimizer(settings: OptimizerSettings, rates: list[list[float]]) -> None:
    """Tries optimizer and schedule on a few numbers, so that a mistake shows before training, not an hour into it.

    Args:
        rates: the learning rates of each stage's groups.

    Raises:
        ConfigError: one can't be built or can't make a step with these settings.
    """
    for stage in rates:
        parameters = [torch.nn.Parameter(torch.ones(2, 2)) for _ in stage]
        groups = [{"params": [one], "lr": rate} for one, rate in zip(parameters, stage, strict=True)]
        optimizer = build_optimizer(groups, settings)
        schedule = build_lr_scheduler(optimizer, settings, max(1, settings.max_train_steps))
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        try:
            optimizer.step()
        except Exception as error:  # each optimizer has its own kind of error
            raise ConfigError(
                f"optimizer_type {settings.optimizer_type} can't make a step: {error}.",
                f"The learning rates are {stage}; Prodigy and D-Adaptation need 1 for all of them.",
            ) from error
        try:
            schedule.step()
            flatten(schedule.state_dict(), {})
        except TypeError as error:
            raise ConfigError(
                f"lr_scheduler_type {settings.lr_scheduler_type} can't be used: {error}.",
                "It must step without a loss and hold only numbers in its state. Set lr_scheduler instead.",
            ) from error


def build_lr_scheduler(optimizer: Optimizer, settings: OptimizerSettings, steps: int) -> Any:
    """The learning-rate schedule of a stage of N steps, from diffusers or, if it has none, from transformers.

    Raises:
        ConfigError: the schedule of `lr_scheduler_type` does not exist or does not take its arguments.
    """
    if settings.lr_scheduler_type is not None:
        return _named_scheduler(optimizer, settings.lr_scheduler_type, settings.lr_scheduler_args)
    warm_up, decay = _steps_of(settings.lr_warmup_steps, steps), _steps_of(settings.lr_decay_steps, steps)
    least = settings.lr_scheduler_min_lr_ratio
    if settings.lr_scheduler == "cosine_with_min_lr":
        from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

        return get_cosine_with_min_lr_schedule_with_warmup(optimizer, warm_up, steps, min_lr_rate=least)
    if settings.lr_scheduler == "inverse_sqrt":
        from transformers.optimization import get_inverse_sqrt_schedule

        return get_inverse_sqrt_schedule(optimizer, warm_up, settings.lr_scheduler_timescale)
    if settings.lr_scheduler == "warmup_stable_decay":
        from transformers.optimization import get_wsd_schedule

        stable = max(0, steps - warm_up - decay)
        return get_wsd_schedule(optimizer, warm_up, decay, num_stable_steps=stable, min_lr_ratio=least)
    from diffusers.optimization import get_scheduler

    return get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=warm_up,
        num_training_steps=steps,
        num_cycles=settings.lr_scheduler_num_cycles,
        power=settings.lr_scheduler_power,
    )


def _named_scheduler(optimizer: Optimizer, name: str, given: list[str]) -> Any:
    module, _, kind = name.rpartition(".")
    try:
        schedule = getattr(imported(module or "torch.optim.lr_scheduler"), kind)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f'lr_scheduler_type: "{name}" can\'t be imported: {error}.', "Set lr_scheduler, or install its package."
        ) from error
    try:
        return schedule(optimizer, **dict(_argument(text, "lr_scheduler_args") for text in given))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"lr_scheduler_type {name} does not take these settings: {error}.", f"lr_scheduler_args is {given}."
        ) from error


def _steps_of(given: int | float, steps: int) -> int:
    """A number of steps, or a share of a stage's steps if it is below 1."""
    return int(given * steps) if given < 1 else int(given)


def _short_name(name: str) -> str | None:
    """sd-scripts' name with its spelling there; None if it isn't one."""
    return {short.lower(): short for short in KNOWN}.get(name.lower())


def _class_of(name: str) -> type[Optimizer]:
    """The class for a short or full name; a name without a module is in torch.optim, as in sd-scripts.

    Raises:
        ConfigError: there is no such class, or its package is missing.
    """
    short = _short_name(name)
    module, _, kind = (KNOWN[short] if short else name).rpartition(".")
    if not module and not hasattr(torch.optim, kind):
        remedy = f"{did_you_mean(name, KNOWN)} For an optimizer of another package, write module.Class."
        raise ConfigError(f'optimizer_type: "{name}" is not a known optimizer.', remedy)
    try:
        found = getattr(imported(module or "torch.optim"), kind, None)
    except (ImportError, ValueError, TypeError) as error:
        root = module.partition(".")[0]
        remedy = f"pip install {PACKAGES[root]}" if root in PACKAGES else f"Install the package that contains {root}."
        raise ConfigError(f'optimizer_type: "{name}" can\'t be imported: {error}.', remedy) from error
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        remedy = did_you_mean(kind, [one for one in dir(imported(module or "torch.optim")) if one[:1].isupper()])
        raise ConfigError(
            f'optimizer_type: "{name}" can\'t be imported: {kind} is not an optimizer of {module or "torch.optim"}.',
            remedy,
        )
    return found


def _argument(text: str, called: str) -> tuple[str, Any]:
    """("name", value) from "name=value"."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise ConfigError(f'{called}: "{text}" is not of the form "name=value".', 'For example "weight_decay=0.01".')
    return name.strip(), literal(value.strip())
