"""The method's rules for settings: which it reads, which it changes, and which it refuses.

Each method's own rules are in its file in `library/methods/`.
"""

from __future__ import annotations

from typing import Any

from library.config.family_settings import names_in
from library.config.method_settings import PURECC
from library.config.optimizers import apply_optimizer
from library.config.settings import Settings
from library.errors import ConfigError
from library.methods import METHODS
from library.methods.method import own_of_all
from library.methods.reads import OF_SOME, VECTORS, WITH_EMBEDDINGS, WITH_VECTORS


def unread(method: str, with_embeddings: bool = False) -> frozenset[str]:
    """Settings that a method does not use.

    Args:
        with_embeddings: the setting of that name.
    """
    chosen = METHODS[method]
    vectors = VECTORS if with_embeddings and chosen.may_have_vectors else frozenset()
    return (OF_SOME | own_of_all() | {WITH_EMBEDDINGS}) - chosen.all_reads - vectors


def apply_method(values: dict[str, Any], where: dict[str, str], notices: list[str]) -> None:
    """Removes values that the method does not use, reports that, and adds those that it and its optimizer need.

    Args:
        values, where: settings by name, and where each was set; changed in place.
        notices: gets a sentence if something was removed.
    """
    name = values.get("method", PURECC)
    if not isinstance(name, str) or name not in METHODS:
        return  # the setting's own check reports it
    method = METHODS[name]
    with_embeddings = values.get(WITH_EMBEDDINGS) is True and method.may_have_vectors
    needless = sorted(unread(name, with_embeddings) & set(values))
    for one in needless:
        del values[one]
        where.pop(one, None)
    if needless:
        notices.append(f'method = "{name}" does not use {", ".join(needless)}; these settings have no effect.')
    vectors = WITH_VECTORS if with_embeddings else {}
    unset = {**method.starts_from, **method.defaults, **vectors}
    if names_in("network") & values.keys():
        unset.pop("target_modules", None)  # ranks for kinds of layers choose the layers
    for one, value in unset.items():
        values.setdefault(one, value)
    apply_optimizer(values, unread(name, with_embeddings), notices)


def check_method(settings: Settings, notices: list[str]) -> None:
    """Checks for settings that the method does not support.

    Args:
        notices: gets the method's remarks.

    Raises:
        ConfigError: it says what to change.
    """
    if settings.network.full_bf16 and settings.optimizer.ema_decay is not None:
        raise ConfigError(
            "full_bf16 keeps weights in bf16, where ema_decay has no effect: its changes round to zero.",
            "Remove ema_decay.",
        )
    method = METHODS[settings.method.method]
    method.check(settings)
    notices += method.remarks(settings)
