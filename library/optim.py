"""Optimizers and learning-rate schedules, by the names that users of sd-scripts know."""

from __future__ import annotations

import ast
import importlib
from typing import Any

import torch
from torch.optim import Optimizer

from library.checkpoint import flatten
from library.config.settings import OptimizerSettings
from library.errors import ConfigError, did_you_mean

KNOWN = {
    "AdamW": "torch.optim.AdamW",
    "AdamW8bit": "bitsandbytes.optim.AdamW8bit",
    "PagedAdamW8bit": "bitsandbytes.optim.PagedAdamW8bit",
    "PagedAdamW": "bitsandbytes.optim.PagedAdamW",
    "PagedAdamW32bit": "bitsandbytes.optim.PagedAdamW32bit",
    "Lion": "lion_pytorch.Lion",
    "Lion8bit": "bitsandbytes.optim.Lion8bit",
    "PagedLion8bit": "bitsandbytes.optim.PagedLion8bit",
    "AdaFactor": "transformers.optimization.Adafactor",
    "Prodigy": "prodigyopt.Prodigy",
    "DAdaptAdam": "dadaptation.DAdaptAdam",
    "DAdaptLion": "dadaptation.DAdaptLion",
}


def build_optimizer(groups: list[dict[str, Any]], settings: OptimizerSettings) -> Optimizer:
    """The optimizer of a stage.

    Args:
        groups: {"params": [...], "lr": ...} each; empty ones are left out.

    Raises:
        ConfigError: unknown optimizer, or arguments that it does not take.
    """
    kind = _class_of(settings.optimizer_type)
    arguments = dict(_argument(text, "optimizer_args") for text in settings.optimizer_args)
    try:
        return kind([group for group in groups if group["params"]], **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"optimizer_type {settings.optimizer_type} does not take these settings: {error}.",
            f"optimizer_args is {settings.optimizer_args}.",
        ) from error


def check_optimizer(settings: OptimizerSettings, rates: list[list[float]]) -> None:
    """Tries optimizer and schedule on a few numbers, so that a mistake shows before training, not after an hour of it.

    Args:
        rates: the learning rates of each stage's groups.

    Raises:
        ConfigError: one can't be built, or can't make a step with these settings.
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
        except Exception as error:  # each optimizer has its own way to say what it does not like
            raise ConfigError(
                f"optimizer_type {settings.optimizer_type} can't make a step: {error}.",
                f"Learning rates are {stage}; Prodigy wants the same, 1.0, for all of them.",
            ) from error
        try:
            schedule.step()
            flatten(schedule.state_dict(), {})
        except TypeError as error:
            raise ConfigError(
                f"lr_scheduler_type {settings.lr_scheduler_type} can't be used: {error}.",
                "It has to step by itself, and its state has to be numbers. Set lr_scheduler instead.",
            ) from error


def build_lr_scheduler(optimizer: Optimizer, settings: OptimizerSettings, steps: int) -> Any:
    """The learning-rate schedule of a stage of so many steps, from diffusers or, what it lacks, from transformers.

    Raises:
        ConfigError: the schedule of `lr_scheduler_type` is not there, or does not take its arguments.
    """
    if settings.lr_scheduler_type is not None:
        return _named_scheduler(optimizer, settings)
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


def _named_scheduler(optimizer: Optimizer, settings: OptimizerSettings) -> Any:
    name, given = settings.lr_scheduler_type, settings.lr_scheduler_args
    module, _, kind = name.rpartition(".")
    try:
        schedule = getattr(importlib.import_module(module or "torch.optim.lr_scheduler"), kind)
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
    """So many steps, or that share of a stage's steps if it is below 1."""
    return int(given * steps) if given < 1 else int(given)


def _class_of(name: str) -> type[Optimizer]:
    known = {short.lower(): full for short, full in KNOWN.items()}
    full = known.get(name.lower(), name)
    module, _, kind = full.rpartition(".")
    if not module:
        raise ConfigError(f'optimizer_type: there is no optimizer "{name}".', did_you_mean(name, KNOWN))
    try:
        return getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f'optimizer_type: "{name}" can\'t be imported: {error}.', f"Known by short names are: {', '.join(KNOWN)}."
        ) from error


def _argument(text: str, called: str) -> tuple[str, Any]:
    """("name", value) of "name=value"."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise ConfigError(f'{called}: "{text}" is not of the form "name=value".', 'Such as "weight_decay=0.01".')
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()
