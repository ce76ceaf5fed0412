"""[method]: which method trains. A method's own settings are declared in its file in `library/methods/`."""

from __future__ import annotations

from dataclasses import dataclass

from library.config.fields import setting

PURECC = "purecc"


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """[method]: which method trains, PureCC or a rival on the same model, data and steps."""

    method: str = setting(
        PURECC, "Training method. Each method sets what it needs, and the run lists settings that it doesn't use."
    )
    with_embeddings: bool = setting(
        False, "also learn a vector in every block for each token of [V], as mix_of_show does (ours)."
    )
