"""Prompts with their text states: each text is encoded only once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from library.config.dataset import Concept
from library.errors import ConfigError
from library.files.cache import Cache
from library.hierarchical_embedding_injector import ConceptToken
from library.models.family import FlowModel
from library.models.interface import Progress, Prompt, TextStates
from library.prompts import triggers_in, with_trigger

ENCODED_AT_ONCE = 256
"""Most texts encoded before the first is saved: the encoders are loaded once for all of them."""
TOKENS_HELD = 4096
"""Most texts whose trigger tokens stay in memory."""


class TriggerLayout:
    """How many tokens a concept's trigger has, which is how many vectors each block has for it.

    One of the model's text streams comes after the other, each in the order of the text. The rule for a prompt: every
    token that holds characters of the trigger, at each of its occurrences, gets the vector of its place in the trigger.

    Args:
        every_stream: whether tokens of all streams get vectors, or those of the first alone.

    Attributes:
        counts: tokens that get vectors, of each stream.

    Raises:
        ConfigError: the target prompt is so long that the trigger is cut off.
    """

    def __init__(self, concept: Concept, model: FlowModel, every_stream: bool = True) -> None:
        self.concept = concept
        target = with_trigger(concept.target, concept)
        found = [len(places) for places in model.token_positions(target, triggers_in(target, concept.trigger)[0])]
        marked = len(found) if every_stream else 1
        self.counts = (*found[:marked], *[0] * (len(found) - marked))
        if not all(found[:marked]):
            ways = ["Choose a shorter trigger", *(f"raise {one.setting}" for one in model.streams if one.setting)]
            raise ConfigError(
                f'concept "{concept.name}": its trigger "{concept.trigger}" is cut off in the target "{target}".',
                f"{', or '.join(ways)}.",
            )

    @property
    def vectors(self) -> int:
        """The number of vectors per block."""
        return sum(self.counts)

    def find(self, text: str, model: FlowModel) -> list[ConceptToken]:
        """The tokens of a text that the concept's vectors replace."""
        found = []
        for span in triggers_in(text, self.concept.trigger):
            first = 0
            for positions, count in zip(model.token_positions(text, span), self.counts, strict=True):
                places = zip(positions[:count], range(first, first + count), strict=False)
                found += [ConceptToken(position, self.concept.name, vector) for position, vector in places]
                first += count
        return found


class TextLibrary:
    """All prompts of a run, by text; their states are read from the cache batch by batch.

    Args:
        layouts: of every concept whose trigger may be in a prompt.
    """

    def __init__(self, model: FlowModel, cache: Cache, layouts: Sequence[TriggerLayout]) -> None:
        self.model = model
        self.cache = cache
        self.layouts = layouts
        self._places: dict[str, str] = {}
        self._tokens_of = lru_cache(TOKENS_HELD)(self._find_tokens)

    def prepare(self, texts: Iterable[str], progress: Progress = iter) -> None:
        """Finds the states of these texts in the cache; those that are not there are encoded now.

        Args:
            progress: wraps the loops that encode.
        """
        wanted = [text for text in dict.fromkeys(texts) if text not in self._places]
        missing = [text for text in wanted if self.cache.find("text", self._key(text)) is None]
        batches = [missing[begin : begin + ENCODED_AT_ONCE] for begin in range(0, len(missing), ENCODED_AT_ONCE)]
        for batch in batches:
            for text, states in zip(batch, self.model.encode_text(batch, progress), strict=True):
                pooled = {} if states.pooled is None else {"pooled": states.pooled}
                self.cache.put("text", self._key(text), {"context": states.context, **pooled})
        self._places |= {text: self.cache.place("text", self._key(text)) for text in wanted}

    def __getitem__(self, text: str) -> Prompt:
        found = self.cache.at(self._places[text])
        return Prompt(text, TextStates(found["context"], found.get("pooled")), self._tokens_of(text))

    def _find_tokens(self, text: str) -> tuple[ConceptToken, ...]:
        return tuple(token for layout in self.layouts for token in layout.find(text, self.model))

    def _key(self, text: str) -> dict[str, str]:
        return {"text": text, "model": self.model.text_fingerprint()}
