"""Learned words: rows in the two CLIPs' input tables that stand for a concept's trigger, with gradients.

Both encoders have such rows, and the pooled state comes from them too. T5 reads the text without the trigger, in
training and in ComfyUI, which skips a word without a row for T5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from library.models.interface import TextStates, Words

if TYPE_CHECKING:
    from transformers import CLIPTextModelWithProjection

CLIPS = ("clip_l", "clip_g")
"""The two encoders' names in files with learned words."""


class LearnedWords(Words):
    """The two CLIPs with learned rows for triggers; T5 has none.

    Args:
        encoders: CLIP-L and CLIP-G, frozen.
        tokenizers: of these encoders.
        length: how many tokens they read.
        starts: for each concept, the word whose rows its own rows start from, and how many it gets.
        device: of the rows and of what `encode` returns; the encoders may be on another.
        masked: the encoders don't read padding.
    """

    def __init__(
        self,
        encoders: Sequence[nn.Module],
        tokenizers: Sequence[Any],
        length: int,
        starts: Mapping[str, tuple[str, int]],
        device: torch.device,
        masked: bool = False,
    ) -> None:
        super().__init__()
        self.masked = masked
        self.encoders = list(encoders)
        self.tokenizers = list(tokenizers)
        self.length = length
        self.device = device
        self.rows = nn.ModuleDict()
        for concept, (word, count) in starts.items():
            rows = {name: self._start(index, word, count) for index, name in enumerate(CLIPS)}
            self.rows[concept] = nn.ParameterDict(rows)

    def rows_of(self, concept: str) -> dict[str, nn.Parameter]:
        """A concept's rows in each of the encoders."""
        return {name: self.get_parameter(f"rows.{concept}.{name}") for name in CLIPS}

    def _start(self, index: int, word: str, count: int) -> nn.Parameter:
        ids = self.tokenizers[index](word, add_special_tokens=False)["input_ids"]
        table = self.table_of(index).weight
        mean = table[torch.tensor(ids, device=table.device)].detach().float().mean(0)
        return nn.Parameter(mean.expand(count, -1).clone().to(self.device))

    def table_of(self, index: int) -> nn.Embedding:
        """The vectors of all tokens of CLIP-L or CLIP-G."""
        return cast("CLIPTextModelWithProjection", self.encoders[index]).text_model.embeddings.token_embedding

    def encode(self, text: str, spans: Sequence[tuple[int, int, str]], plain: TextStates) -> tuple[Tensor, Tensor]:
        """See `Words`; T5's part comes from the plain text."""
        hidden, pooled = zip(*(self._clip(index, text, spans) for index in range(len(CLIPS))), strict=True)
        wide, width = torch.cat(hidden, dim=-1), plain.context.shape[-1]
        wide = nn.functional.pad(wide, (0, width - wide.shape[-1]))
        t5 = plain.context[self.length :].to(wide)
        return torch.cat([wide, t5]).to(self.device), torch.cat(pooled, dim=-1).to(self.device)

    def _clip(self, index: int, text: str, spans: Sequence[tuple[int, int, str]]) -> tuple[Tensor, Tensor]:
        table = self.table_of(index)
        read, positions, rows = self._read(index, text, spans)
        padding = [self.tokenizers[index].pad_token_id] * (self.length - len(read))
        ids = torch.tensor([read + padding], device=table.weight.device)
        mask = torch.tensor([[1] * len(read) + [0] * len(padding)], device=ids.device) if self.masked else None

        def spliced(module: nn.Module, args: tuple[Any, ...], states: Tensor) -> Tensor:
            if not positions:
                return states
            where = torch.tensor(positions, device=states.device)
            return states.index_put((torch.zeros_like(where), where), torch.stack(rows).to(states))

        handle = table.register_forward_hook(spliced)
        try:
            made = self.encoders[index](ids, attention_mask=mask, output_hidden_states=True)
        finally:
            handle.remove()
        return made.hidden_states[-2][0], made.text_embeds[0]

    def _read(
        self, index: int, text: str, spans: Sequence[tuple[int, int, str]]
    ) -> tuple[list[int], list[int], list[Tensor]]:
        """Tokens of a text, at most as many as the encoder reads; the positions of the rows, and these rows."""
        tokenizer = self.tokenizers[index]
        ids = tokenizer(text, truncation=True, max_length=self.length)["input_ids"]
        read: list[int] = []
        places: list[tuple[int, Tensor]] = []
        behind = 0
        for begin, end, concept in spans:
            rows = self.rows[concept].get_parameter(CLIPS[index])
            read += ids[behind:begin]
            places += enumerate(rows, len(read))
            read += [ids[begin]] * len(rows)
            behind = end
        read += ids[behind:]
        if len(read) > self.length:
            read = [*read[: self.length - 1], ids[-1]]
        kept = [(position, row) for position, row in places if position < self.length - 1]
        return read, [position for position, _ in kept], [row for _, row in kept]
