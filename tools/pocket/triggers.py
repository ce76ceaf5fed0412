"""Gives words that training never shows embeddings that the model notices.

The real encoders have rarely seen `sks` and `ohwx`: they notice these words, but know no meaning. An embedding that was
never trained is much shorter than its neighbours, and goes unnoticed. One that is drawn like any word's may change the
prediction hardly or a lot: of many draws, the one is kept that changes it as much as a colour does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from library.prepare.visibility import COLOURS, NOISES
from tools.pocket.autoencoder import CHANNELS
from tools.pocket.captions import TRIGGERS, vocabulary
from tools.pocket.flow import TextToFlow

DRAWS = 24
CLASS = "creature"


@torch.no_grad()
def make_triggers_heard(model: TextToFlow, seed: int) -> dict[str, float]:
    """Draws each trigger's embedding in each text encoder like any word's, with the same mean and spread.

    Returns:
        How far each trigger moves the velocity for "a creature" at pure noise, as a share of its length.
    """
    device = model.transformer.device
    chance = torch.Generator().manual_seed(seed)
    side = model.transformer.config.sample_size
    noise = torch.randn(NOISES, CHANNELS, side, side, generator=chance).to(device)
    words = [word for word in vocabulary() if word not in TRIGGERS]
    tables = []
    for tokenizer, encoder in zip(
        model.tokenizers, (model.text_encoder, model.text_encoder_2, model.text_encoder_3), strict=True
    ):
        table = encoder.get_input_embeddings().weight
        known = table[_tokens_of(tokenizer, words)]
        tables.append((table, _tokens_of(tokenizer, TRIGGERS), known.mean(0), known.std(0)))
    plain = _velocity(model, noise, f"a {CLASS}")

    def moved_by(word: str) -> float:
        change = _velocity(model, noise, f"a {word} {CLASS}") - plain
        return (change.norm(dim=1) / plain.norm(dim=1)).mean().item()

    wanted = sum(map(moved_by, COLOURS)) / len(COLOURS)
    moved = dict.fromkeys(TRIGGERS, float("inf"))
    kept = [table[rows] for table, rows, _, _ in tables]
    for _ in range(DRAWS):
        for table, rows, mean, spread in tables:
            table[rows] = mean + spread * torch.randn(len(rows), len(mean), generator=chance).to(device)
        for place, word in enumerate(TRIGGERS):
            share = moved_by(word)
            if abs(share - wanted) < abs(moved[word] - wanted):
                moved[word] = share
                for best, (table, rows, _, _) in zip(kept, tables, strict=True):
                    best[place] = table[rows[place]]
    for best, (table, rows, _, _) in zip(kept, tables, strict=True):
        table[rows] = best
    return moved


def _velocity(model: TextToFlow, noise: Tensor, caption: str) -> Tensor:
    """(NOISES, latents)."""
    return model.velocity(noise, torch.ones(len(noise)), [caption] * len(noise)).flatten(1)


def _tokens_of(tokenizer, words: list[str] | tuple[str, ...]) -> Tensor:
    """The one token of each word."""
    return torch.tensor([tokenizer(word, add_special_tokens=False).input_ids[-1] for word in words])
