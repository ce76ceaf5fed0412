"""What goes into a pretrained model and comes out of it, for every family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from library.hierarchical_embedding_injector import ConceptToken

T = TypeVar("T")


class Progress(Protocol):
    """Wraps the slow loop to show its progress; `iter` shows nothing."""

    def __call__(self, items: Iterable[T], /) -> Iterable[T]:
        """The items, unchanged."""


@dataclass(frozen=True)
class TextStates:
    """The text encoders' output for one prompt; computed once, kept on the CPU."""

    context: Tensor
    """(tokens, width): of each of the model's text streams, one after the other."""
    pooled: Tensor | None = None
    """(pooled width,); None where the family's transformer reads none."""


@dataclass(frozen=True)
class Prompt:
    """One prompt as the transformer gets it."""

    text: str
    states: TextStates
    tokens: tuple[ConceptToken, ...]
    """Tokens that a concept's vectors replace."""


@dataclass(frozen=True)
class PromptBatch:
    """The prompts of a batch."""

    context: Tensor
    """(B, tokens, width)."""
    pooled: Tensor | None
    """(B, pooled width); None where the family's transformer reads none."""
    tokens: tuple[tuple[ConceptToken, ...], ...]
    """For each row, the tokens that belong to concepts."""
    concepts: tuple[str | None, ...]
    """For each row, the concept whose extractor looks at it."""
    texts: tuple[str, ...] = ()
    """Each row's text, for readers that make states again; empty where nobody knows it."""

    @classmethod
    def of(cls, prompts: Sequence[Prompt], concepts: Sequence[str | None]) -> PromptBatch:
        """Stacks prompts."""
        return cls(
            torch.stack([prompt.states.context for prompt in prompts]),
            _all(torch.stack, [prompt.states.pooled for prompt in prompts]),
            tuple(prompt.tokens for prompt in prompts),
            tuple(concepts),
            tuple(prompt.text for prompt in prompts),
        )

    @classmethod
    def joined(cls, batches: Sequence[PromptBatch]) -> PromptBatch:
        """Several batches as one, in order."""
        return cls(
            torch.cat([batch.context for batch in batches]),
            _all(torch.cat, [batch.pooled for batch in batches]),
            tuple(tokens for batch in batches for tokens in batch.tokens),
            tuple(concept for batch in batches for concept in batch.concepts),
            tuple(text for batch in batches for text in batch.texts),
        )

    def part(self, rows: slice) -> PromptBatch:
        """Some of its rows."""
        pooled = None if self.pooled is None else self.pooled[rows]
        return PromptBatch(self.context[rows], pooled, self.tokens[rows], self.concepts[rows], self.texts[rows])


def _all(joined: Callable[[list[Tensor]], Tensor], pooled: Sequence[Tensor | None]) -> Tensor | None:
    """Pooled states concatenated; None if the prompts have none."""
    present = [one for one in pooled if one is not None]
    return joined(present) if len(present) == len(pooled) else None


@dataclass(frozen=True)
class TextStream:
    """A run of the text's tokens, as one tokenizer cuts it.

    Args:
        name: in messages.
        key: its name in files.
        begin, length: its range among all tokens of a text.
        setting: the one that sets its length; None: the model fixes it.
    """

    name: str
    key: str
    begin: int
    length: int
    setting: str | None = None

    @property
    def end(self) -> int:
        """The first token after it."""
        return self.begin + self.length


@dataclass(frozen=True)
class TextShape:
    """The size of a prompt's states.

    Args:
        tokens, width: of the context. pooled: width of the pooled state; None: it has none.
    """

    tokens: int
    width: int
    pooled: int | None

    def zeros(self, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Context and pooled states of N prompts, all 0."""
        pooled = None if self.pooled is None else torch.zeros(rows, self.pooled, dtype=dtype)
        return torch.zeros(rows, self.tokens, self.width, dtype=dtype), pooled

    @property
    def numbers(self) -> int:
        """How many numbers the states of a prompt are."""
        return self.tokens * self.width + (self.pooled or 0)


def block_of(layer: str, block_lists: Mapping[str, int]) -> int | None:
    """The number of the block that a layer is in, counted across all lists; None if it is outside the blocks.

    Args:
        layer: its name, which starts with the name of its list and its number there.
        block_lists: see `FlowModel`.
    """
    before = 0
    for name, count in block_lists.items():
        if layer.startswith(f"{name}."):
            return before + int(layer.removeprefix(f"{name}.").partition(".")[0])
        before += count
    return None


class Words(nn.Module):
    """Text encoders with learned rows for triggers, which take the place of the trigger's tokens.

    Attributes:
        rows: for each concept, the rows of each encoder, by the encoder's name in files.
        length: how many tokens these encoders read, the first ones of the text stream.
    """

    rows: nn.ModuleDict
    length: int

    def rows_of(self, concept: str) -> dict[str, nn.Parameter]:
        """A concept's rows, by each encoder's name in files."""
        raise NotImplementedError

    def encode(self, text: str, spans: Sequence[tuple[int, int, str]], plain: TextStates) -> tuple[Tensor, Tensor]:
        """Context (tokens, width) and pooled state of a text, with gradients for the rows.

        Args:
            text: with the trigger in it.
            spans: each occurrence of the trigger, in order: its first token, the first token after it, and the concept
                whose rows replace it.
            plain: states of the text without the trigger, used for encoders that learn nothing.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class BaseChange:
    """Updates that are added to the transformer's weights on loading.

    Args:
        updates: by the weight's diffusers name, a function that computes its update, float32 on the CPU.
        shapes: of each, (out, in); a convolution's weight counts as a matrix of all its inputs.
        fingerprint: changes with the updates.
        source: its name in messages.
    """

    updates: Mapping[str, Callable[[], Tensor]]
    shapes: Mapping[str, tuple[int, int]]
    fingerprint: str
    source: str

    def added_to(self, name: str, weight: Tensor) -> Tensor:
        """The weight of that name with its update, in its own precision."""
        if name not in self.updates:
            return weight
        return (weight.float() + self.updates[name]().view(weight.shape).to(weight.device)).to(weight.dtype)


@dataclass(frozen=True)
class TokenCount:
    """How a text fits an encoder.

    Args:
        stream: the number of the text stream with the encoder's tokens.
    """

    encoder: str
    needed: int
    limit: int
    stream: int = 0
