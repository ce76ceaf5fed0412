"""T-LoRA: fewer ranks of the LoRA act on noisier pictures.

Soboleva et al., T-LoRA: Single Image Diffusion Model Customization Without Overfitting (arXiv 2507.05964). At high
noise a model memorises a few pictures, including background and pose, so only few ranks may learn there. With so few
ranks each one has to count, so their directions start orthogonal (Ortho-LoRA).

    r(t) = floor(((T - t) / T)^power (r - r_min)) + r_min,      delta W = B S M_t A - B_0 S_0 M_t A_0

The port:
* t / T is sigma, the flow's own noise level.
* r_min is half of the ranks and the power is 1, as in ports that follow the authors' scripts. Those have no alpha. By
  default network_alpha = network_dim, so the scale is 1 here, too.
* B_0, S_0 and A_0 are the last singular vectors and values of a random matrix, as in their scripts for SDXL. QR draws
  the vectors from the same distribution in a fraction of the time; layers of the same size share their values.
* A LoRA file can't say at which noise a rank acts. NAME.safetensors is a plain LoRA of twice the rank, and every UI
  applies all of it at every noise level. The run's own sheets and report draw it as trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.config.fields import setting
from library.config.settings import Settings
from library.errors import ConfigError
from library.methods.lora import objective
from library.methods.method import Method, register
from library.methods.reads import LORA, LOSS

if TYPE_CHECKING:
    from torch import Tensor

    from library.adapters.linear import Facts, Form


@dataclass(frozen=True, kw_only=True)
class TLoRASettings:
    """Settings of T-LoRA."""

    t_lora_min_share: float = setting(
        0.5, "t_lora: share of the ranks that act at pure noise. All act without noise.", above=0, at_most=1
    )
    t_lora_power: float = setting(
        1.0, "t_lora: how the ranks grow from noise to image. 1: evenly; above 1: later; below 1: earlier.", above=0
    )


@dataclass(frozen=True)
class RanksByNoise:
    """Lets the first ranks act; with less noise, more of them.

    Args:
        share: of the ranks that act at pure noise, at least one.
    """

    share: float
    power: float

    def active(self, sigma: Tensor, rank: int) -> Tensor:
        """How many of the ranks act at these noise levels, (B,)."""
        least = max(1, int(self.share * rank))
        return ((1 - sigma.float()).clamp(0, 1) ** self.power * (rank - least)).floor() + least

    def __call__(self, low: Tensor, facts: Facts) -> Tensor:
        """1 for ranks that act and 0 for others, (B, 1, ..., rank)."""
        key = (self, low.shape[-1], low.dim(), low.device, low.dtype)
        return facts.once(key, lambda: self._acting(low, facts))

    def _acting(self, low: Tensor, facts: Facts) -> Tensor:
        import torch

        rank = low.shape[-1]
        acts = torch.arange(rank) < self.active(facts.sigma.cpu(), rank).unsqueeze(1)
        return acts.to(low.device, low.dtype).view(len(acts), *[1] * (low.dim() - 2), rank)


def form(settings: Settings) -> Form:
    """Orthogonal directions, fewer of which act at higher noise."""
    from library.adapters.linear import Form

    own = settings.of_method(TLoRASettings)
    return Form(RanksByNoise(own.t_lora_min_share, own.t_lora_power), orthogonal=True)


def check(settings: Settings) -> None:
    """Refuses to start from a LoRA, which has no such directions.

    Raises:
        ConfigError: it says what to change.
    """
    if settings.network.network_weights is not None:
        raise ConfigError(
            "t_lora starts from orthogonal directions of its own, but network_weights is set.",
            "Remove network_weights.",
        )


def remarks(settings: Settings) -> list[str]:
    """Says what its file does in other programs."""
    return [
        "t_lora: UIs apply all ranks of the saved LoRA at every noise level, so their images differ from this run's."
    ]


register(
    Method(
        name="t_lora",
        trains="a LoRA on your images, of which fewer ranks act at higher noise: T-LoRA",
        reads=(LORA | LOSS) - {"scale_weight_norms", "loraplus_lr_ratio"},
        own=TLoRASettings,
        student=objective,
        form=form,
        check=check,
        remarks=remarks,
    )
)
