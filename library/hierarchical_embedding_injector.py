"""The hierarchical embedding injector: a learned vector for a concept in every transformer block (PureCC, Eq. 7).

The text stream of an MMDiT carries one hidden state per token from block to block. Where a prompt has the concept's
trigger, the state at the input of block l is replaced by the concept's learned vector for that block and token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from library.per_pass import PerPass
from library.transfer import to_device

Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]
"""What a block is given, replaced."""


@dataclass(frozen=True)
class ConceptToken:
    """One token of a prompt that a concept's vector replaces."""

    position: int
    """Index in the text stream."""
    concept: str
    vector: int
    """Which of the concept's vectors: as the trigger's tokens stand, one of the model's streams after the other."""
    of_trigger: bool = True
    """Whether it is the trigger's, not a place of context vectors."""


class ConceptEmbeddings(nn.Module):
    """The learned vectors of one concept.

    Hidden states grow several times over from block to block, and differ between models. So what learns is a vector's
    offset from its start, in units of the start's root mean square. Then a learning rate means the same for every
    block, token and model.

    Args:
        start: their start, (L, tokens, width) for one per block, or (1, tokens, width) for one that all blocks share or
            only the first block gets. Kept in float32.
        blocks: how many blocks the transformer has.
        every_block: whether blocks after the first get one, too.
    """

    start: Tensor
    size: Tensor

    def __init__(self, start: Tensor, blocks: int, every_block: bool = True) -> None:
        super().__init__()
        start = start.detach().float().clone()
        size = start.square().mean(2, keepdim=True).sqrt()
        self.register_buffer("start", start)
        self.register_buffer("size", torch.where(size > 0, size, 1.0))
        self.moved = nn.Parameter(torch.zeros_like(start))
        self.blocks = blocks
        self.every_block = every_block

    @property
    def count(self) -> int:
        """How many vectors each block gets: one per token."""
        return self.start.shape[1]

    def vectors(self) -> Tensor:
        """The current vectors, in the shape of their start; computed, so writing to them changes nothing."""
        return self.start + self.size * self.moved

    @torch.no_grad()
    def load_vectors(self, vectors: Tensor) -> None:
        """Sets the vectors to these.

        Args:
            vectors: as `per_block` returns them.

        Raises:
            ValueError: they have another shape, or differ between blocks although all blocks share one.
        """
        mine = self.per_block()
        if vectors.shape != mine.shape:
            raise ValueError(f"their shape is {tuple(vectors.shape)}, not {tuple(mine.shape)}")
        given = vectors.to(mine)
        alike = given.device.type == "meta" or torch.equal(given, given[:1].expand_as(given))
        if len(self.start) == 1 and not alike:
            raise ValueError("they differ between blocks, but here all blocks share one")
        self.moved.copy_((given[: len(self.start)] - self.start) / self.size)

    def at(self, block: int) -> Tensor | None:
        """The vectors of a block, (tokens, width); None if it gets none."""
        if block > 0 and not self.every_block:
            return None
        row = self._row(block)
        return self.start[row] + self.size[row] * self.moved[row]

    def size_at(self, block: int) -> Tensor:
        """The unit of the vectors of a block: their start's root mean square, (tokens, 1)."""
        return self.size[self._row(block)]

    def per_block(self) -> Tensor:
        """All of them as one tensor, as saved: (L, tokens, width), or (1, ...) for only the first block."""
        if not self.every_block:
            return self.vectors().detach()
        return self.vectors().detach().expand(self.blocks, -1, -1)

    def _row(self, block: int) -> int:
        return block if len(self.start) > 1 else 0


@dataclass(frozen=True)
class Placement:
    """Where the vectors of one set of embeddings belong in a batch: three index tensors of equal length.

    Args:
        replaces: they replace the states there; otherwise the states are only compared with them.
    """

    embeddings: ConceptEmbeddings
    rows: Tensor
    positions: Tensor
    vectors: Tensor
    replaces: bool = True

    def distance(self, text: Tensor, block: int) -> Tensor | None:
        """Squared distance of a block's states to the vectors, in units of the size of the vectors' start.

        Args:
            text: the states that the block reads, (B, tokens, width).

        Returns:
            For each row the mean over its places here, (B,), float32; None if the block gets no vectors.
        """
        vectors = self.embeddings.at(block)
        if vectors is None:
            return None
        size = self.embeddings.size_at(block)[self.vectors]
        apart = (text[self.rows, self.positions].float() - vectors.detach()[self.vectors]) / size
        places = (torch.arange(len(text), device=text.device)[:, None] == self.rows).float()
        return places @ apart.square().mean(1) / places.sum(1).clamp(min=1)


def placements_of(
    tokens: Sequence[Sequence[ConceptToken]],
    embeddings: Sequence[Mapping[str, ConceptEmbeddings]],
    device: torch.device,
    replaces: bool = True,
) -> tuple[Placement, ...]:
    """Where vectors belong in a batch.

    Args:
        tokens: for each row, the tokens of its prompt that belong to concepts.
        embeddings: for each row, the embeddings of each concept; other concepts keep their own hidden states.
        replaces: see `Placement`.
    """
    found: dict[ConceptEmbeddings, list[tuple[int, int, int]]] = defaultdict(list)
    for row, (row_tokens, row_embeddings) in enumerate(zip(tokens, embeddings, strict=True)):
        for token in row_tokens:
            concept = row_embeddings.get(token.concept)
            if concept is not None and token.vector < concept.count:
                found[concept].append((row, token.position, token.vector))
    placements = []
    for one, places in found.items():
        rows, positions, vectors = to_device(torch.tensor(places), device).unbind(1)
        placements.append(Placement(one, rows, positions, vectors, replaces))
    return tuple(placements)


@dataclass(frozen=True)
class TextInput:
    """Where a transformer block reads the text: a keyword, or a positional argument, of states (B, tokens, width).

    Args:
        keyword, place: of the argument.
        tokens: how many of the first states are the text's; None: all, since the pictures' are separate.
    """

    keyword: str = "encoder_hidden_states"
    place: int = 1
    tokens: int | None = None


class HierarchicalEmbeddingInjector:
    """Puts concept vectors into the text stream of a transformer's blocks.

    Args:
        blocks: the transformer blocks, in order.
        inputs: where each reads the text; None: as in diffusers' MMDiT.
    """

    def __init__(self, blocks: Sequence[nn.Module], inputs: Sequence[TextInput] | None = None) -> None:
        self.placements: PerPass[tuple[Placement, ...]] = PerPass(())
        self.blocks = len(blocks)
        self._seen: list[Tensor] | None = None
        self._distances: list[Tensor] | None = None
        for index, (block, where) in enumerate(zip(blocks, inputs or [TextInput()] * len(blocks), strict=True)):
            block.register_forward_pre_hook(self._hook_of(index, where), with_kwargs=True)

    def injecting(self, placements: tuple[Placement, ...]) -> AbstractContextManager[None]:
        """Inside, every pass gets these vectors."""
        return self.placements.set_to(placements)

    @contextmanager
    def watching(self) -> Iterator[list[Tensor]]:
        """Inside, collects the text stream as each block reads it: one (B, tokens, width) per block."""
        self._seen = []
        try:
            yield self._seen
        finally:
            self._seen = None

    @contextmanager
    def comparing(self) -> Iterator[list[Tensor]]:
        """Inside, collects how far states are from the vectors that they are compared with: one (B,) per block.

        The first block has none: no layer of the blocks could change what it reads.
        """
        self._distances = []
        try:
            yield self._distances
        finally:
            self._distances = None

    def _hook_of(self, block: int, where: TextInput) -> Hook:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            positional = where.keyword not in kwargs
            text = args[where.place] if positional else kwargs[where.keyword]
            self._compare(text, block)
            text = self._replaced(text, block)
            if self._seen is not None:
                self._seen.append(text[:, : where.tokens].detach())
            if positional:
                return (*args[: where.place], text, *args[where.place + 1 :]), kwargs
            return args, {**kwargs, where.keyword: text}

        return hook

    def _compare(self, text: Tensor, block: int) -> None:
        compared = [one for one in self.placements.value if block > 0 and not one.replaces]
        distances = [one for one in (placement.distance(text, block) for placement in compared) if one is not None]
        # A recomputed block makes them once more, for their gradient, and nobody collects them.
        if distances and self._distances is not None:
            self._distances.append(sum(distances[1:], distances[0]))

    def _replaced(self, text: Tensor, block: int) -> Tensor:
        for placement in self.placements.value:
            if not placement.replaces:
                continue
            vectors = placement.embeddings.at(block)
            if vectors is not None:
                chosen = vectors[placement.vectors].to(text.dtype)
                text = text.index_put((placement.rows, placement.positions), chosen)
        return text
