"""[method]: which method trains. What a method has of its own is declared in its file in `library/methods/`."""

from __future__ import annotations

from dataclasses import dataclass

from library.config.fields import setting

PURECC = "purecc"


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """[method]: which method trains, PureCC or a rival on the same model, data and steps."""

    method: str = setting(PURECC, "What trains. Each sets what it needs, and says what it does not use.")
    with_embeddings: bool = setting(
        False, "a vector in every block for each token of [V] learns as well, as in mix_of_show (ours)."
    )
