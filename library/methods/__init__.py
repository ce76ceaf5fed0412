"""Methods: PureCC and its rivals, each a small file, over the same model, data, caches, step and files."""

from __future__ import annotations

from library.methods import (
    cifc,
    dco,
    dop,
    dreambooth,
    ewc,
    l2_anchor,
    lora,
    mix_of_show,
    prior_prediction,
    prior_preservation,
    purecc,
    textual_inversion,
)
from library.methods.method import Method

MODULES = (
    purecc,
    lora,
    prior_preservation,
    dop,
    prior_prediction,
    l2_anchor,
    dco,
    ewc,
    dreambooth,
    textual_inversion,
    mix_of_show,
    cifc,
)
METHODS: dict[str, Method] = {module.__name__.rpartition(".")[2]: module.METHOD for module in MODULES}
"""By the name in the setting `method`; what they make of the settings is in `library/config/methods.py`."""
