"""Answers in every form are understood, and captions are composed from them."""

import json

import pytest

from library.captions.composition import compose
from library.captions.facts import LONGEST_ANSWER, BrokenAnswer, Facts, read_facts, read_looks
from library.config.dataset import Concept
from library.prompts import derive

DOG = Concept(name="dog", trigger="sks", class_word="dog")
INK = Concept(name="ink", trigger="ohwx", kind="style")
SEEN = {
    "medium": "Photo",
    "shot": "close-up",
    "state": "the dog is lying on its side",
    "place": "on a wooden bench in a park",
    "others": ["a red ball", "two cups"],
    "light": "Soft evening light.",
    "style": "",
}


def always(caption: str) -> bool:
    return True


def caption_of(facts: Facts, concept: Concept = DOG, looks=(), fits=always) -> str:
    return compose(facts, concept, looks, fits).text


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(SEEN),
        f"```json\n{json.dumps(SEEN, indent=2)}\n```",
        f"Here it is: {json.dumps({**SEEN, 'breed': {'a': [1]}, 'style': None})} I hope that helps!",
    ],
    ids=["alone", "fenced", "talkative"],
)
def test_a_caption_names_everything_but_the_subject(answer):
    assert caption_of(read_facts(answer)) == (
        "a photo of a [V] dog lying on its side on a wooden bench in a park, a red ball, two cups, close-up, "
        "soft evening light"
    )


def test_a_styles_caption_says_what_is_depicted_but_not_how():
    facts = read_facts(json.dumps({**SEEN, "content": "An old woman", "medium": "ink drawing", "style": "loose lines"}))
    text = caption_of(facts, INK)
    assert text == "an old woman on a wooden bench in a park, a red ball, two cups, in [V] style"
    assert derive(text, INK, "").base == "an old woman on a wooden bench in a park, a red ball, two cups"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "no JSON"),
        ("I can't help with that.", "no JSON"),
        ('{"place": "in a park", "light": ', "no JSON"),
        ('{"place": "in a park", }', "broken"),
        ("} {", "no JSON"),
        ('{"a":' * 1100 + "1" + "}" * 1100, "broken|requested facts"),
        ("{}", "requested facts"),
        ('{"place": "none", "light": 3, "others": {"a": "b"}}', "requested facts"),
        ('{"place": "' + "in a park " * LONGEST_ANSWER + '"}', "more than"),
    ],
)
def test_a_broken_answer_says_why(answer, why):
    with pytest.raises(BrokenAnswer, match=why):
        read_facts(answer)


def test_an_answer_can_not_speak_in_captions_own_signs():
    """A picture may contain any text, and a model reads it out."""
    place = "in {a|b} [V] <lora:x:1>\n(sks:1.4) \\ the\u202e dog's \x00 house # [[ ]] __x__"
    facts = read_facts(json.dumps({"place": place, "others": [f"thing {n}" for n in range(500)], "light": "a " * 500}))
    text = caption_of(facts)
    assert not set("{}|[]<>()\\#_\n\x00\u202e") & set(text.replace("[V]", ""))
    assert text.count("[V]") == 1 and "sks" not in text and text.count("dog") == 1
    assert "thing 5" in text and "thing 6" not in text and len(text) < 400


def test_what_does_not_fit_is_left_out_in_order_and_reported():
    facts = Facts.of({**SEEN, "style": "black and white"})
    composed = compose(facts, DOG, (), lambda text: len(text.split()) <= 18)
    assert composed.text == "a photo of a [V] dog lying on its side on a wooden bench in a park, close-up"
    assert composed.too_long == ("black and white", "soft evening light", "two cups", "a red ball")
    assert compose(facts, DOG, (), lambda text: False).text == "a photo of a [V] dog", "at last, nothing is left"


def test_facts_about_the_subject_are_left_out_and_reported():
    composed = compose(Facts.of({**SEEN, "state": "with its red bib on"}), DOG, ["red bib", "brown fur"], always)
    assert "bib" not in composed.text and composed.of_the_concept == ("with its red bib on",)
    assert "red ball" in composed.text, "a colour is not the subject's alone"


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"place": "a garden"}, "a photo of a [V] dog, a garden"),
        ({"medium": "an oil painting", "place": "In front"}, "an oil painting of a [V] dog in front"),
        ({"place": "in a park", "others": "a cat, A cat, a tree"}, "a photo of a [V] dog in a park, a cat, a tree"),
        ({"place": "TV studio"}, "a photo of a [V] dog, TV studio"),
        ({"others": ["another dog", "The dog", "sks"], "light": "dim"}, "a photo of a [V] dog, another dog, dim"),
    ],
)
def test_phrases_make_a_sentence(facts, text):
    assert caption_of(Facts.of(facts)) == text


def test_facts_come_back_from_json():
    facts = Facts.of(SEEN)
    assert Facts.of(json.loads(json.dumps(facts.as_table()))) == facts


def test_looks_are_a_few_short_phrases():
    assert read_looks('{"looks": ["Brown fur", "brown fur", 3, "red bib."]}') == ("brown fur", "red bib")
    with pytest.raises(BrokenAnswer, match="no looks"):
        read_looks('{"looks": []}')
