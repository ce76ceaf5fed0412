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
    "ewc",
    "dreambooth",
    "textual_inversion",
    "mix_of_show",
    "cifc",
]


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """[method]: what trains, PureCC or a rival over the same model, data and step; docs/methods.md says more."""

    method: MethodName = setting("purecc", "What trains. Each sets what it needs, and says what it does not use.")
    with_embeddings: bool = setting(
        False,
        "prior_preservation, dop, prior_prediction, l2_anchor, dco, ewc, dreambooth: a vector in every block for each "
        "token of [V] learns as well, as in mix_of_show (ours).",
    )
    l2_anchor_weight: float = setting(
        0.001, "l2_anchor: weight of the squared length of the change of all weights that learn.", at_least=0
    )
    dco_beta: float = setting(
        300.0, "dco: how soon a picture that the student does better than the pretrained model is enough.", above=0
    )
    ewc_lambda: float = setting(
        0.001, "ewc, and dreambooth if above 0: weight of elastic weight consolidation.", at_least=0
    )
    ewc_fisher_samples: int = setting(
        300, "Noisy replayed pictures from which the Fisher information is taken, once for each model.", at_least=1
    )
    fused_backward_pass: bool = setting(
        True, "dreambooth: each weight makes its step inside the backward pass, so that gradients take no memory."
    )
    previous_loras: list[str] = setting(
        [], "cifc: LoRA files of the concepts learned before, in any layout.", holds="path"
    )
    orthogonal_weight: float = setting(
        0.1, "cifc: weight of how far the LoRA reads what earlier concepts' LoRAs read.", at_least=0
    )
