"""CIFC (CIDM): concepts one after the other, each in a subspace that the earlier ones do not read.

Dong et al. (arXiv 2410.17594): ED-LoRA for each concept in turn, and gamma sum_i |A_i A_g^T| over the matrices A_i of
earlier concepts at the input's side (Eq. 5), so that the subspaces are orthogonal. With one concept nothing is earlier,
and it equals `mix_of_show`, which the run says.

The port:
* Earlier concepts are the LoRA files in `previous_loras`, of runs before; the product is rank by rank. The released
  code takes the matrices at the output's side instead.
* The second regulariser, ||delta W_i - H_i W*||^2 with a W* that all concepts share, is in the paper and not in the
  released code. At its minimum over H_i and W* it is 0 for any LoRAs, so it means nothing without their start and rate,
  which are not known: it is left out (docs/methods.md).
* Elastic weight aggregation, which weighs the concepts' LoRAs anew for each prompt, is in `aggregation.py`:
  `purecc_fuse.py --fusion elastic` writes the LoRA for one prompt.
"""

from __future__ import annotations

from library.config.settings import Settings
from library.methods.lora import objective
from library.methods.method import Method


def weights(settings: Settings) -> dict[str, float]:
    """orthogonal_weight sum_i |A_i A^T|_1, if there are earlier concepts."""
    method = settings.method
    return {"orthogonal": method.orthogonal_weight if method.previous_loras else 0.0}


METHOD = Method(objective, penalties=weights)
