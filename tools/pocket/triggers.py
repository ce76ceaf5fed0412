"""Gives words that training never shows embeddings as long as those of the words that it does show.

The real encoders have rarely seen `sks` and `ohwx`: they notice these words, but know no meaning. An embedding that was
never trained is much shorter than its neighbours, and goes unnoticed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tools.pocket.captions import TRIGGERS, vocabulary
from tools.pocket.flow import TextToFlow


@torch.no_grad()
def make_triggers_heard(model: TextToFlow, seed: int) -> None:
    """Draws each trigger's embedding in each text encoder like any word's, with the same mean and spread."""
    chance = torch.Generator().manual_seed(seed)
    words = [word for word in vocabulary() if word not in TRIGGERS]
    for tokenizer, encoder in zip(
        model.tokenizers, (model.text_encoder, model.text_encoder_2, model.text_encoder_3), strict=True
    ):
        table = encoder.get_input_embeddings().weight
        known = table[_tokens_of(tokenizer, words)]
        noise = torch.randn(len(TRIGGERS), table.shape[1], generator=chance).to(table.device)
        table[_tokens_of(tokenizer, TRIGGERS)] = known.mean(0) + known.std(0) * noise


def _tokens_of(tokenizer, words: list[str] | tuple[str, ...]) -> Tensor:
    """The one token of each word."""
    return torch.tensor([tokenizer(word, add_special_tokens=False).input_ids[-1] for word in words])
