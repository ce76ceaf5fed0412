"""[method]: which method trains, and the settings that rivals of PureCC have of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from library.config.fields import setting

MethodName = Literal[
    "purecc",
    "lora",
    "prior_preservation",
    "dop",
    "prior_prediction",
    "l2_anchor",
    "dco",
]


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """[method]: what trains, PureCC or a rival over the same model, data and step; docs/methods.md says more."""

    method: MethodName = setting("purecc", "What trains. Each sets what it needs, and says what it does not use.")
    l2_anchor_weight: float = setting(
        1.0, "l2_anchor: weight of the squared length of the change of all weights that learn.", at_least=0
    )
    dco_beta: float = setting(
        1000.0, "dco: how soon a picture that the student does better than the pretrained model is enough.", above=0
    )
