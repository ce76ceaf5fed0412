"""The optimizers that sd-scripts names, and the learning rates and the schedule that some of them need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KNOWN = {
    "AdamW": "torch.optim.AdamW",
    "AdamW8bit": "bitsandbytes.optim.AdamW8bit",
    "PagedAdamW8bit": "bitsandbytes.optim.PagedAdamW8bit",
    "PagedAdamW": "bitsandbytes.optim.PagedAdamW",
    "PagedAdamW32bit": "bitsandbytes.optim.PagedAdamW32bit",
    "AdEMAMix8bit": "bitsandbytes.optim.AdEMAMix8bit",
    "PagedAdEMAMix8bit": "bitsandbytes.optim.PagedAdEMAMix8bit",
    "Lion": "lion_pytorch.Lion",
    "Lion8bit": "bitsandbytes.optim.Lion8bit",
    "PagedLion8bit": "bitsandbytes.optim.PagedLion8bit",
    "SGDNesterov": "torch.optim.SGD",
    "SGDNesterov8bit": "bitsandbytes.optim.SGD8bit",
    "AdaFactor": "transformers.optimization.Adafactor",
    "Prodigy": "prodigyopt.Prodigy",
    "DAdaptation": "dadaptation.experimental.DAdaptAdamPreprint",
    "DAdaptAdamPreprint": "dadaptation.experimental.DAdaptAdamPreprint",
    "DAdaptAdaGrad": "dadaptation.DAdaptAdaGrad",
    "DAdaptAdam": "dadaptation.DAdaptAdam",
    "DAdaptAdan": "dadaptation.DAdaptAdan",
    "DAdaptAdanIP": "dadaptation.experimental.DAdaptAdanIP",
    "DAdaptLion": "dadaptation.DAdaptLion",
    "DAdaptSGD": "dadaptation.DAdaptSGD",
    "AdamWScheduleFree": "schedulefree.AdamWScheduleFree",
    "RAdamScheduleFree": "schedulefree.RAdamScheduleFree",
    "SGDScheduleFree": "schedulefree.SGDScheduleFree",
}
"""Classes by sd-scripts' names."""
ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "SGDNesterov": {"nesterov": True, "momentum": 0.9},
    "SGDNesterov8bit": {"nesterov": True, "momentum": 0.9},
}
"""Arguments that these names imply besides the class; `optimizer_args` take precedence."""
PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "lion_pytorch": "lion-pytorch",
    "prodigyopt": "prodigyopt",
    "dadaptation": "dadaptation",
    "schedulefree": "schedulefree",
    "prodigyplus": "prodigy-plus-schedule-free",
    "pytorch_optimizer": "pytorch_optimizer",
}
"""What to install for a module."""
SCHEDULE = {"lr_scheduler": "constant", "lr_scheduler_type": None, "lr_warmup_steps": 0, "lr_decay_steps": 0}
"""Settings of the schedule that change the rates, with values that change nothing."""


def finds_its_rate(optimizer_type: str) -> bool:
    """Whether an optimizer, by its own or its class's name, finds its step size from all weights at once."""
    return optimizer_type.rpartition(".")[2].lower().startswith(("prodigy", "dadapt"))


def is_schedule_free(optimizer_type: str) -> bool:
    """Whether an optimizer, by its sd-scripts name, averages its weights instead of following a schedule."""
    return optimizer_type.lower().endswith("schedulefree")


def apply_optimizer(values: dict[str, Any], needless: frozenset[str], notices: list[str]) -> None:
    """Gives an optimizer the rates and the schedule that it needs, and reports that.

    Args:
        values: settings by name; changed in place.
        needless: settings that the method does not use.
        notices: gets a sentence for each changed value.
    """
    name = values.get("optimizer_type")
    if not isinstance(name, str):
        return  # the check of the setting itself says so
    if finds_its_rate(name):
        _one_rate(name, values, needless, notices)
    given = [key for key, unset in SCHEDULE.items() if values.get(key, unset) != unset]
    if is_schedule_free(name) and given:
        values.update(SCHEDULE)
        notices.append(
            f"WARNING: {', '.join(given)}: ignored, because {name} needs no schedule; set a warm-up with warmup_steps "
            "in optimizer_args."
        )


def _one_rate(name: str, values: dict[str, Any], needless: frozenset[str], notices: list[str]) -> None:
    """Uses one learning rate for all weights of a stage; weights with rate 0 don't change."""
    main, other = "learning_rate", "embedding_lr"
    if main in needless:
        main, other = other, main
    changed = {} if main in values else {main: 1.0}
    rate = values.get(main, 1.0)
    first = values.get("extractor_learning_rate")
    for key, wanted in ((other, rate), ("extractor_embedding_lr", rate if first is None else first)):
        given = values.get(key)
        follows = given is None and key != other and wanted == rate  # unset values of stage 1 are as in stage 2
        if all(_is_number(one) for one in (wanted, given or 0)) and wanted and given not in (0, wanted) and not follows:
            changed[key] = wanted
    values.update(changed)
    said = [f"{key} = {value:g}" for key, value in changed.items() if key not in needless]
    if said:
        notices.append(
            f"{name} finds its step size automatically and needs one learning rate for all weights: {', '.join(said)}."
        )
    if values.get("loraplus_lr_ratio") not in (None, 1):
        values["loraplus_lr_ratio"] = None
        notices.append(f"WARNING: loraplus_lr_ratio is ignored: {name} needs one learning rate for all weights.")
    if _is_number(rate) and 0 < rate <= 0.1:
        notices.append(f"WARNING: {main} is {rate:g}; {name} works best near 1.")


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)
