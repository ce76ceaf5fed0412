"""Texts and their states: the trigger's position, and each text is only ever encoded once."""

import pytest
import torch

from library.data.texts import TextLibrary, TriggerLayout
from library.errors import ConfigError
from library.files.cache import Cache
from library.models.interface import TextStates, TextStream
from tests.helpers.datasets import DOG


class OfCharacters:
    """A model in which every character is a token of CLIP and of T5, up to its length: T5 after CLIP."""

    def __init__(self, length: int = 40) -> None:
        self.length = length
        self.streams = (TextStream("CLIP", "clip", 0, length), TextStream("T5", "t5", length, length))
        self.encoded: list[str] = []

    def token_positions(self, text: str, span: tuple[int, int]) -> tuple[list[int], list[int]]:
        clip = [position for position in range(*span) if position < self.length]
        return clip, [self.length + position for position in clip]

    def text_fingerprint(self) -> str:
        return f"of {self.length} characters"

    def encode_text(self, texts, progress):
        self.encoded += progress(texts)
        return [TextStates(torch.full((1, 2, 3), float(len(text))), torch.zeros(1, 3)) for text in texts]


def test_each_place_of_a_trigger_has_its_vector_at_each_of_its_occurrences():
    layout = TriggerLayout(DOG, OfCharacters())
    count = len(DOG.trigger)
    assert (layout.counts, layout.vectors) == ((count, count), 2 * count)
    text = f"{DOG.trigger} and {DOG.trigger}"
    found = layout.find(text, OfCharacters())
    assert [token.vector for token in found] == [*range(2 * count)] * 2
    begins = (0, text.rindex(DOG.trigger))
    places = [at + begin + one for begin in begins for at in (0, 40) for one in range(count)]
    assert [token.position for token in found] == places
    assert TriggerLayout(DOG, OfCharacters(), every_stream=False).vectors == count


def test_a_trigger_that_is_cut_off_is_refused():
    with pytest.raises(ConfigError, match=rf"{DOG.trigger}.* is cut off"):
        TriggerLayout(DOG, OfCharacters(length=0), every_stream=False)


def test_a_text_is_encoded_once_ever(tmp_path):
    model = OfCharacters()
    for _ in range(2):
        texts = TextLibrary(model, Cache(tmp_path), [TriggerLayout(DOG, model, every_stream=False)])
        texts.prepare(["a dog", f"a {DOG.trigger}", "a dog"])
        texts.prepare(["a dog"])
        prompt = texts[f"a {DOG.trigger}"]
        assert float(prompt.states.context.max()) == len(prompt.text) and len(prompt.tokens) == len(DOG.trigger)
    assert model.encoded == ["a dog", f"a {DOG.trigger}"]
