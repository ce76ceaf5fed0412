"""What the method that trains makes of the settings: which it reads, which stand otherwise, and which it refuses.

What each is and reads is in its file in `library/methods/`.
"""

from __future__ import annotations

from typing import Any

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
    """Takes out of the values what the method does not use, says so, and puts in what it and its optimizer want.

    Args:
        values, where: settings by name, and where each was given; changed in place.
        notices: a sentence is added if something was taken out.
    """
    name = values.get("method", PURECC)
    if not isinstance(name, str) or name not in METHODS:
        return  # the check of the setting itself says so
    method = METHODS[name]
    with_embeddings = values.get(WITH_EMBEDDINGS) is True and method.may_have_vectors
    needless = sorted(unread(name, with_embeddings) & set(values))
    for one in needless:
        del values[one]
        where.pop(one, None)
    if needless:
        notices.append(f'method = "{name}" does not use {", ".join(needless)}; these settings have no effect.')
    vectors = WITH_VECTORS if with_embeddings else {}
    for one, value in {**method.starts_from, **method.defaults, **vectors}.items():
        values.setdefault(one, value)
    apply_optimizer(values, unread(name, with_embeddings), notices)


def check_method(settings: Settings, notices: list[str]) -> None:
    """Refuses what the method can't do.

    Args:
        notices: what the method has to say is added.

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
