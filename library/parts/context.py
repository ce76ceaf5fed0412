"""Context vectors in a run: which tokens of a prompt they stand for, and branches that carry them (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from library.dual_branch_scheduler import Branch
from library.hierarchical_embedding_injector import ConceptEmbeddings, ConceptToken
from library.models.interface import PromptBatch
from library.parts.parts import Opened


@dataclass(frozen=True)
class Context:
    """The context vectors of a run, frozen, by the name of the concept whose pictures they belong to.

    Args:
        seconds: how long learning them took, in this or an earlier run.
    """

    vectors: dict[str, ConceptEmbeddings] = field(default_factory=dict)
    seconds: float = 0.0

    def beside(self, branch: Branch) -> Branch:
        """The branch, plus these vectors wherever a prompt has places for them."""
        own = {name_of(concept): vectors for concept, vectors in self.vectors.items()}
        return replace(branch, embeddings={**branch.embeddings, **own})

    def add_to(self, batch: PromptBatch, texts: Sequence[str], rows: Sequence[bool], parts: Opened) -> PromptBatch:
        """Adds places for the vectors of each row's concept to the prompts.

        Args:
            rows: those that get them.
        """
        if not self.vectors:
            return batch
        tokens = [
            own + (places(parts, concept, text) if chosen and concept in self.vectors else ())
            for own, concept, text, chosen in zip(batch.tokens, batch.concepts, texts, rows, strict=True)
        ]
        return replace(batch, tokens=tuple(tokens))


def name_of(concept: str) -> str:
    """The name of a concept's context among the concepts; no concept can have this name."""
    return f"context of\n{concept}"


def places(parts: Opened, concept: str, text: str) -> tuple[ConceptToken, ...]:
    """The last tokens of a text in each of the model's text streams, if they are padding."""
    count, model = parts.settings.context.context_vectors, parts.model
    counts, found = model.count_tokens([text])[0], list[ConceptToken]()
    for number, stream in enumerate(model.streams):
        needed = max(one.needed for one in counts if one.stream == number)
        free = min(count, max(0, stream.length - needed))
        found += [
            ConceptToken(stream.end - 1 - index, name_of(concept), number * count + index, of_trigger=False)
            for index in range(free)
        ]
    return tuple(found)
