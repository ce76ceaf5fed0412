"""CIFC (CIDM): learns concepts one by one, each in a subspace that the earlier ones do not read.

Dong et al. (arXiv 2410.17594): ED-LoRA for each concept in turn, and gamma sum_i |A_i A_g^T| over the matrices A_i of
earlier concepts on the input side (Eq. 5), so that the subspaces are orthogonal. Without earlier concepts it equals
`mix_of_show`, and the run says so.

The port:
* Earlier concepts are the LoRA files in `previous_loras`, from earlier runs; the product is rank by rank. The released
  code uses the matrices on the output side instead.
* The second regulariser, ||delta W_i - H_i W*||^2 with a W* that all concepts share, is in the paper but not in the
  released code. Its minimum over H_i and W* is 0 for any LoRAs, so it means nothing without their start and rate.
  Those are unknown, so it is left out (docs/reference/methods.md).
* Elastic weight aggregation, which weighs the concepts' LoRAs again for each prompt, is in
  `library/convert/aggregation.py`: `purecc_fuse.py --fusion elastic` writes the LoRA for one prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.config.fields import setting
from library.config.settings import Settings
from library.errors import ModelError, naming
from library.methods.lora import objective
from library.methods.method import Method, Penalised, PenaltyTerm, register
from library.methods.reads import ED_LORA, WITH_VECTORS

if TYPE_CHECKING:
    from torch import Tensor

    from library.adapters.network import AdapterNetwork
    from library.adapters.penalties import Penalty


@dataclass(frozen=True, kw_only=True)
class CIFCSettings:
    """Settings of CIFC."""

    previous_loras: list[str] = setting(
        [], "cifc: LoRA files of the concepts learned before, in any layout.", holds="path"
    )
    orthogonal_weight: float = setting(
        0.1, "cifc: weight of the penalty for reading what earlier concepts' LoRAs read.", at_least=0
    )


def penalties(settings: Settings) -> list[PenaltyTerm]:
    """orthogonal_weight sum_i |A_i A^T|_1, if there are earlier concepts."""
    from library.adapters.linear import LowRank
    from library.adapters.penalties import Overlap

    own = settings.of_method(CIFCSettings)

    def overlap(student: Penalised) -> Penalty:
        layers = {name: layer for name, layer in student.layers.items() if isinstance(layer, LowRank)}
        return Overlap(layers, earlier(own.previous_loras, student.blocks))

    return [PenaltyTerm("orthogonal", own.orthogonal_weight if own.previous_loras else 0.0, overlap)]


def earlier(paths: list[str], blocks: int) -> dict[str, list[Tensor]]:
    """The input-side matrices of earlier concepts' LoRAs for each layer, (rank, in) each.

    Args:
        blocks: how many blocks the transformer has.
    """
    from library.adapters.files import load_lora

    found: dict[str, list[Tensor]] = {}
    for path in paths:
        for name, weights in load_lora(path, blocks).items():
            found.setdefault(name, []).append(weights.down.float())
    return found


def check_fit(settings: Settings, network: AdapterNetwork, blocks: int) -> None:
    """Checks that earlier LoRAs read the same inputs as the layers.

    Raises:
        ModelError: there is no such file, or it is for another model.
    """
    from library.adapters.files import load_lora
    from library.adapters.linear import shape_of

    for path in settings.of_method(CIFCSettings).previous_loras:
        with naming("previous_loras"):
            for name, given in load_lora(path, blocks).items():
                layer = network.layers.get(name)
                if layer is not None and given.down.shape[1] != shape_of(layer.base)[1]:
                    raise ModelError(
                        f"{path}: the LoRA of {name} has {given.down.shape[1]} inputs, but the model's layer has "
                        f"{shape_of(layer.base)[1]}.",
                        "It was trained for another model.",
                    )


def remarks(settings: Settings) -> list[str]:
    """Says if there are no earlier concepts."""
    if settings.of_method(CIFCSettings).previous_loras:
        return []
    return ["cifc without previous_loras equals mix_of_show."]


register(
    Method(
        name="cifc",
        trains="ED-LoRA for one concept after another, each in its own subspace",
        reads=ED_LORA,
        own=CIFCSettings,
        defaults=WITH_VECTORS,
        student=objective,
        penalties=penalties,
        check_fit=check_fit,
        remarks=remarks,
    )
)
