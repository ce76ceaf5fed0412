"""Token-masked LoRA: it acts where the trigger word is, and nowhere else.

The token mask of TARA (Peng et al., Token-Aware LoRA, arXiv 2508.08812): the LoRA of what reads the text acts on the
trigger's tokens alone, so that several LoRAs don't meet in one token. Prompts without the trigger give exactly what the
pretrained model gives.

    x -> W x + m o (B A x),      m = 1 for tokens of the trigger, 0 for all others

The port:
* An MMDiT has no layers that read the text for the picture alone: the text is a stream of its own beside the picture's,
  and both are read together. The LoRA is on the attention of the text's stream, so that it reaches the picture
  through what the trigger's tokens show of themselves there. The picture's own layers have none.
* The trigger's tokens are those of every text encoder, as for vectors in the blocks. Their pooled state stays.
* TARA's second loss holds the token's attention to the concept's region. It needs maps of cross-attention: left out.
* A LoRA file can't say on which tokens it acts. NAME.safetensors is a plain LoRA, and every UI applies it to all tokens
  of every prompt. What the run draws itself, sheets and report, is as it was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.config.family_settings import names_in, text_attention_layers, text_feed_forward_layers
from library.config.settings import Settings
from library.errors import ConfigError
from library.methods.lora import objective
from library.methods.method import Method, register
from library.methods.reads import LORA, LOSS

if TYPE_CHECKING:
    from torch import Tensor

    from library.adapters.linear import Facts, Form

OF_TOKENS = text_attention_layers() + text_feed_forward_layers()
"""The layers that see one token of the text after the other."""


@dataclass(frozen=True)
class NamedTokens:
    """The trigger's tokens."""

    def __call__(self, low: Tensor, facts: Facts) -> Tensor:
        """1 for the trigger's tokens and 0 for others, (B, tokens, 1)."""
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
    """Refuses layers that see no tokens of the text.

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
    """What its file does elsewhere."""
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
