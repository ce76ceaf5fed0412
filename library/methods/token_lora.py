"""Token-masked LoRA: acts only where the trigger word is.

The token mask of TARA (Peng et al., Token-Aware LoRA, arXiv 2508.08812): the LoRA on text-reading layers acts only on
the trigger's tokens, so that several LoRAs never act on the same token. Prompts without the trigger give exactly the
pretrained model's result.

    x -> W x + m o (B A x),      m = 1 for tokens of the trigger, 0 for all others

The port:
* An MMDiT has no layers that only read the text for the picture: text and picture are two streams that are read
  together. The LoRA is on the attention of the text stream, and reaches the picture through the trigger's tokens there.
  The picture's own layers have none.
* The trigger's tokens are those of every text encoder, as for vectors in the blocks. The pooled state does not change.
* TARA's second loss keeps the token's attention in the concept's region. It needs maps of cross-attention, so it is
  left out.
* A LoRA file can't say on which tokens it acts. NAME.safetensors is a plain LoRA, and every UI applies it to all tokens
  of every prompt. The run's own sheets and report draw it as trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.config.family_settings import names_in, text_attention_layers, text_layers
from library.config.settings import Settings
from library.errors import ConfigError
from library.methods.lora import objective
from library.methods.method import Method, register
from library.methods.reads import LORA, LOSS

if TYPE_CHECKING:
    from torch import Tensor

    from library.adapters.linear import Facts, Form

OF_TOKENS = text_layers()
"""The layers that see one token of the text after the other."""


@dataclass(frozen=True)
class NamedTokens:
    """The trigger's tokens."""

    def __call__(self, low: Tensor, facts: Facts) -> Tensor:
        """1 for the trigger's tokens, 0 for others, (B, tokens, 1)."""
        key = (self, *low.shape[:2], low.device, low.dtype)
        return facts.once(key, lambda: self._acting(low, facts))

    def _acting(self, low: Tensor, facts: Facts) -> Tensor:
        import torch

        acts = torch.zeros(*low.shape[:2], 1)
        for row, places in enumerate(facts.named):
            acts[row, list(places)] = 1
        return acts.to(low.device, low.dtype)


def form(settings: Settings) -> Form:
    """A LoRA on the trigger's tokens."""
    from library.adapters.linear import Form

    return Form(NamedTokens())


def check(settings: Settings) -> None:
    """Checks that the layers read the text's tokens.

    Raises:
        ConfigError: it says what to change.
    """
    for name in settings.network.target_modules:
        if not any(name == one or name.endswith(f".{one}") for one in OF_TOKENS):
            raise ConfigError(
                f'target_modules: token_lora acts on tokens of the text, which "{name}" does not see.',
                f"Choose from: {', '.join(OF_TOKENS)}.",
            )


def remarks(settings: Settings) -> list[str]:
    """Says what its file does in other programs."""
    return [
        "token_lora: UIs apply the saved LoRA to every token of every prompt, so their images differ from this run's."
    ]


register(
    Method(
        name="token_lora",
        trains="a LoRA on your images that acts on the trigger's tokens alone",
        reads=(LORA | LOSS) - names_in("network"),
        defaults={"target_modules": text_attention_layers()},
        student=objective,
        form=form,
        check=check,
        remarks=remarks,
    )
)
