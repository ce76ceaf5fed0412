"""Learned words in a run: builds them, reads them into a batch's prompts, and saves them for ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from library.files.atomic import saved_at, write_tensors
from library.hierarchical_embedding_injector import ConceptToken
from library.models.interface import PromptBatch, Words
from library.parts.parts import Opened
from library.prompts import without_concept


class WordReader:
    """Reads prompts with the learned words in them.

    Args:
        parts: of the run.
        words: the learned words.
    """

    def __init__(self, parts: Opened, words: Words) -> None:
        self.parts = parts
        self.words = words
        self._kept: dict[str, tuple[Tensor, tuple[Tensor, Tensor]]] = {}

    def __call__(self, batch: PromptBatch) -> PromptBatch:
        """The batch, with recomputed states for every row that has a trigger; others don't change."""
        if not any(batch.texts) or not any(batch.tokens):
            return batch
        device = self.parts.model.device
        if batch.pooled is None:
            raise TypeError("learned words make a pooled state, and this model reads none")
        context, pooled = list(batch.context.to(device)), list(batch.pooled.to(device))
        made: dict[str, tuple[Tensor, Tensor]] = {}
        for row, (text, tokens) in enumerate(zip(batch.texts, batch.tokens, strict=True)):
            if any(token.of_trigger for token in tokens):
                if text not in made:
                    made[text] = self._states(text)
                context[row], pooled[row] = (one.to(context[row].dtype) for one in made[text])
        return PromptBatch(torch.stack(context), torch.stack(pooled), batch.tokens, batch.concepts, batch.texts)

    def _states(self, text: str) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return self._read(text)
        # By value, since bitsandbytes' optimizers change weights without increasing their version counters.
        rows = torch.cat([one.flatten() for one in self.words.parameters()])
        if text not in self._kept or not torch.equal(self._kept[text][0], rows):
            self._kept[text] = (rows, self._read(text))  # all steps of a picture read the same texts
        return self._kept[text][1]

    def _read(self, text: str) -> tuple[Tensor, Tensor]:
        plain = text
        for concept in self.parts.concepts:
            plain = without_concept(plain, concept)
        self.parts.texts.prepare([plain])
        spans = _spans(self.parts.texts[text].tokens, self.words.length)
        return self.words.encode(text, spans, self.parts.texts[plain].states)


def _spans(tokens: Sequence[ConceptToken], length: int) -> list[tuple[int, int, str]]:
    """For each trigger in the first tokens of the text stream: its first token, the first one after it, its concept."""
    spans: list[tuple[int, int, str]] = []
    for token in sorted((one for one in tokens if one.position < length), key=lambda one: one.position):
        if token.vector == 0:
            spans.append((token.position, token.position + 1, token.concept))
        else:
            spans[-1] = (spans[-1][0], token.position + 1, token.concept)
    return spans


def made_words(parts: Opened) -> Words:
    """Loads the encoders and gives every concept a row for each token of its trigger, starting as the class word's."""
    starts = {one.name: (one.class_word, parts.layouts[one.name].counts[0]) for one in parts.concepts}
    return parts.model.learned_words(starts)


def save_words(parts: Opened, words: Words, name: str) -> list[Path]:
    """Writes each concept's rows of each encoder into a file that ComfyUI loads from `models/embeddings`."""
    paths = []
    for concept in parts.concepts:
        ending = "embedding" if len(parts.concepts) == 1 else f"{concept.name}_embedding"
        path = parts.settings.output_dir / f"{name}_{ending}.safetensors"
        tensors = {name: rows.detach().float().cpu() for name, rows in words.rows_of(concept.name).items()}
        write_tensors(path, tensors, {"format": "pt", "trigger": concept.trigger, "class_word": concept.class_word})
        paths.append(saved_at(path))
    return paths
