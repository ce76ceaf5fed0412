"""Learned words in a run: built, read into a batch's prompts, and saved for ComfyUI."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from library.atomic import write_tensors
from library.models import PromptBatch
from library.prompts import without_concept
from library.training.parts import Parts


class WordReader:
    """Reads prompts with the learned words in them.

    Args:
        parts: with the words' encoders loaded.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts, self._read = parts, {}

    def __call__(self, batch: PromptBatch) -> PromptBatch:
        """The batch with the states of every row that has a trigger made anew; others stay as they are."""
        if not any(batch.texts) or not any(batch.tokens):
            return batch
        device = self.parts.model.device
        context, pooled = list(batch.context.to(device)), list(batch.pooled.to(device))
        made: dict[str, tuple[Tensor, Tensor]] = {}
        for row, (text, tokens) in enumerate(zip(batch.texts, batch.tokens, strict=True)):
            if tokens:
                if text not in made:
                    made[text] = self._states(text)
                context[row], pooled[row] = (one.to(context[row].dtype) for one in made[text])
        return PromptBatch(torch.stack(context), torch.stack(pooled), batch.tokens, batch.concepts, batch.texts)

    def _states(self, text: str) -> tuple[Tensor, Tensor]:
        versions = tuple(one._version for one in self.parts.words.parameters())
        if not torch.is_grad_enabled() and self._read.get(text, (None,))[0] == versions:
            return self._read[text][1]
        plain = text
        for concept in self.parts.concepts:
            plain = without_concept(plain, concept)
        self.parts.texts.prepare([plain])
        places = [
            (token.position, token.concept, token.vector)
            for token in self.parts.texts[text].tokens
            if token.position < self.parts.model.clip_length
        ]
        states = self.parts.words.encode(text, places, self.parts.texts[plain].states)
        if not torch.is_grad_enabled():
            self._read[text] = (versions, states)  # the steps of a picture read the same texts
        return states


def build_words(parts: Parts) -> None:
    """Loads the encoders and gives every concept its rows."""
    starts = {concept.name: (concept.class_word, parts.layouts[concept.name].clip) for concept in parts.concepts}
    parts.words = parts.model.learned_words(starts)
    parts.reader = WordReader(parts)


def save_words(parts: Parts, name: str) -> list[Path]:
    """Writes a file for each concept, as ComfyUI loads it from `models/embeddings`: "clip_l" and "clip_g"."""
    paths = []
    for concept in parts.concepts:
        ending = "embedding" if len(parts.concepts) == 1 else f"{concept.name}_embedding"
        path = parts.settings.output_dir / f"{name}_{ending}.safetensors"
        tensors = {clip: rows.detach().float().cpu() for clip, rows in parts.words.rows[concept.name].items()}
        write_tensors(path, tensors, {"format": "pt", "trigger": concept.trigger, "class_word": concept.class_word})
        paths.append(path)
    return paths
