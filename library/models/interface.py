"""What the trainer needs of a pretrained model, whatever its family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from library.hierarchical_embedding_injector import ConceptToken
from library.models.memory.counting import Footprint
from library.models.memory.residence import Residence, ResidentBase
from library.per_pass import PerPass

T = TypeVar("T")


class Progress(Protocol):
    """Wraps the loop that takes the time, to show how far it is; `iter` shows nothing."""

    def __call__(self, items: Iterable[T], /) -> Iterable[T]:
        """What is looped over, unchanged."""


@dataclass(frozen=True)
class TextStates:
    """What the text encoders make of one prompt; computed once, kept on the CPU."""

    context: Tensor
    """(tokens, width): CLIP's tokens, then T5's."""
    pooled: Tensor
    """(pooled width,)."""


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
    pooled: Tensor
    """(B, pooled width)."""
    tokens: tuple[tuple[ConceptToken, ...], ...]
    """For each row, the tokens that belong to concepts."""
    concepts: tuple[str | None, ...]
    """For each row, the concept whose extractor looks at it."""
    texts: tuple[str, ...] = ()
    """Each row's text, for readers that make states anew; empty where nobody knows it."""

    @classmethod
    def of(cls, prompts: Sequence[Prompt], concepts: Sequence[str | None]) -> PromptBatch:
        """Stacks prompts."""
        return cls(
            torch.stack([prompt.states.context for prompt in prompts]),
            torch.stack([prompt.states.pooled for prompt in prompts]),
            tuple(prompt.tokens for prompt in prompts),
            tuple(concepts),
            tuple(prompt.text for prompt in prompts),
        )

    @classmethod
    def joined(cls, batches: Sequence[PromptBatch]) -> PromptBatch:
        """Several batches as one, in order."""
        return cls(
            torch.cat([batch.context for batch in batches]),
            torch.cat([batch.pooled for batch in batches]),
            tuple(tokens for batch in batches for tokens in batch.tokens),
            tuple(concept for batch in batches for concept in batch.concepts),
            tuple(text for batch in batches for text in batch.texts),
        )

    def part(self, rows: slice) -> PromptBatch:
        """Some of its rows."""
        return PromptBatch(
            self.context[rows], self.pooled[rows], self.tokens[rows], self.concepts[rows], self.texts[rows]
        )


@dataclass(frozen=True)
class BaseChange:
    """What is added to the transformer's weights when they are loaded.

    Args:
        updates: by the weight's diffusers name, each makes its update, float32 on the CPU.
        shapes: of each (out, in); a convolution's weight counts as a matrix of all its inputs.
        fingerprint: changes with what is added.
        source: what messages call it.
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
    """How a text fits an encoder."""

    encoder: str
    needed: int
    limit: int


class FlowModel(Protocol):
    """A pretrained text-to-image flow model. Its parts are loaded when they are first used and can be let go."""

    device: torch.device
    dtype: torch.dtype
    notices: list[str]
    """What could not be done as wished, a sentence each; complete once the transformer is loaded."""
    blocks_name: str
    """Name of the list of transformer blocks inside the transformer, in diffusers' naming."""

    @property
    def size_multiple(self) -> int:
        """Width and height of pictures must be multiples of it, in pixels."""

    def velocity(self, x_t: Tensor, sigma: Tensor, prompts: PromptBatch, skipped: Sequence[int] = ()) -> Tensor:
        """Predicted velocity, (B, C, H, W) float32, of noisy latents of that shape at noise levels sigma, (B,).

        Args:
            skipped: blocks to leave out.
        """

    t5_length: int
    """Tokens that T5 reads of each prompt."""
    residence: Residence
    """How the transformer's weights lie in memory; may be changed until it is loaded."""
    base: ResidentBase
    """The transformer as it lies there, once it is loaded."""

    @property
    def clip_length(self) -> int:
        """Tokens that CLIP reads."""

    @property
    def transformer_config(self) -> Mapping[str, Any]:
        """The transformer's config.json."""

    @property
    def transformer(self) -> nn.Module:
        """The transformer, frozen, loaded now if it is not yet."""

    def pretrained_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The transformer's weights by diffusers name, read from the files one after the other, on the CPU."""

    @property
    def blocks(self) -> nn.ModuleList:
        """Its blocks, in order."""

    def keep_for_recompute(self, *states: PerPass[Any]) -> None:
        """Values that a pass depends on, to be put back when checkpointing runs a block again."""

    def on_top_of(self, change: BaseChange) -> FlowModel:
        """The model with one change more, before its weights are loaded.

        Raises:
            ModelError: the transformer lacks such a weight, or it has another shape.
        """

    def counted(self, residence: Residence | None = None) -> FlowModel:
        """A copy on the meta device, whose weights have shapes and no numbers, kept in memory as said."""

    def footprints(self, pictures: Sequence[tuple[int, int]], drawn: Sequence[tuple[int, int]]) -> dict[str, Footprint]:
        """What "text", "encode" and "decode" need on the device, for pictures of these widths and heights."""

    def encode_text(self, texts: Sequence[str], progress: Progress = iter) -> list[TextStates]:
        """Text states of prompts, on the CPU. The encoders are read for it and let go again.

        Args:
            progress: wraps the loop that takes the time.
        """

    def without_encoders(self, prompts: PromptBatch, dropped: Tensor) -> PromptBatch:
        """The prompts with zeros where states of encoders were, in the context and in the pooled state.

        Args:
            dropped: for each row whether CLIP-L, CLIP-G and T5 are left out, (B, 3) bool.
        """

    def learned_words(self, starts: Mapping[str, tuple[str, int]]) -> nn.Module:
        """The two CLIPs with learned rows for triggers; see `LearnedWords`. They stay on the CPU."""

    def count_tokens(self, texts: Sequence[str]) -> list[list[TokenCount]]:
        """For each text, how many tokens each encoder needs, begin and end included, and how many it takes."""

    def token_positions(self, text: str, span: tuple[int, int]) -> tuple[list[int], list[int]]:
        """Places in the text stream of the tokens that hold these characters: CLIP's, T5's; none for cut-off ones."""

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, (C, h, w) float32 on the CPU, of pixels (3, H, W) in -1 .. 1."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in -1 .. 1, float32 on the CPU, of latents (B, C, h, w)."""

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture's latents.

        Raises:
            ModelError: the model can't draw this size.
        """

    def sampling_scheduler(self, shift: float | None = None) -> Any:
        """A fresh copy of the diffusers scheduler that the model is sampled with.

        Args:
            shift: another than the model's own.
        """

    def text_fingerprint(self) -> str:
        """Changes when another encoder, length or precision would give other text states."""

    def image_fingerprint(self) -> str:
        """Changes when another VAE or precision would give other latents."""

    def fingerprint(self) -> str:
        """Changes when the transformer does."""

    def release_vae(self) -> None:
        """Lets the VAE go."""
