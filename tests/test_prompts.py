"""One rule makes the three texts."""

import pytest

from library.config.dataset import Concept
from library.drawing.sample_prompts import parse
from library.errors import ConfigError, DataError
from library.prompts import derive, triggers_in, without_concept
from tests.helpers.datasets import DOG, INK
from tests.helpers.places import ROOT


@pytest.mark.parametrize(
    ("caption", "complete", "base"),
    [
        ("A [V] dog standing on a surfboard", "A sks dog standing on a surfboard", "A dog standing on a surfboard"),
        ("a dog on the beach", "a sks dog on the beach", "a dog on the beach"),
        ("a Dog, a hotdog and a cat", "a sks Dog, a hotdog and a cat", "a Dog, a hotdog and a cat"),
        ("a photo of SKS dog", "a photo of sks dog", "a photo of dog"),
        ("an [V] dog", "an sks dog", "a dog"),
        ("the [V] dog , asleep", "the sks dog , asleep", "the dog, asleep"),
        ("[V] dog", "sks dog", "dog"),
    ],
)
def test_a_subjects_texts(caption, complete, base):
    triple = derive(caption, DOG, "file.txt")
    assert (triple.complete, triple.base, triple.target, triple.class_only) == (complete, base, "sks dog", "dog")


@pytest.mark.parametrize(
    ("caption", "complete", "base"),
    [
        ("a house by the sea, in [V] style", "a house by the sea, in ohwx style", "a house by the sea"),
        ("a house in the [V] style", "a house in the ohwx style", "a house"),
        ("a house, [V] style, at night", "a house, ohwx style, at night", "a house, at night"),
        ("a house by the sea", "a house by the sea, in ohwx style", "a house by the sea"),
    ],
)
def test_a_styles_texts_lose_the_whole_phrase(caption, complete, base):
    triple = derive(caption, INK, "file.txt")
    assert (triple.complete, triple.base, triple.target) == (complete, base, "ohwx style")


def test_articles_follow_what_stands_behind_them():
    owl = Concept(name="owl", trigger="sks", class_word="owl")
    assert derive("A [V] owl in a tree", owl, "f").base == "An owl in a tree"
    assert derive("a [V] unicorn", Concept(name="u", trigger="sks", class_word="unicorn"), "f").base == "a unicorn"


def test_what_cannot_be_derived_names_the_file():
    with pytest.raises(DataError, match=r"cat\.txt.*neither \[V\] nor the class word"):
        derive("a cat", DOG, "cat.txt")


def test_a_trigger_is_a_word_of_its_own():
    assert triggers_in("a sks dog, (SKS) asks sksy", "sks") == [(2, 5), (12, 15)]


def test_without_the_concept_any_prompt_is_its_base():
    assert without_concept("two sks dog and a [V] dog", DOG) == "two dog and a dog"


def test_a_trigger_that_is_the_class_word_is_refused():
    with pytest.raises(ConfigError, match="trigger and class_word"):
        Concept(name="dog", trigger="Dog", class_word="dog")


def test_prompt_lines_have_the_options_of_sd_scripts():
    prompt = parse("a [V] dog --w 64 --h 32 --d 7 --s 5 --l 3.5 --n ugly, cat", [DOG], "file")
    assert (prompt.text, prompt.base, prompt.kind) == ("a sks dog", "a dog", "concept")
    assert (prompt.width, prompt.height, prompt.seed, prompt.steps) == (64, 32, 7, 5)
    assert (prompt.guidance_scale, prompt.negative) == (3.5, "ugly, cat")
    assert parse("a dog", [DOG], "file").kind == "class"
    assert parse("a blue house", [DOG], "file").kind == "unrelated"
    with pytest.raises(ConfigError, match='"--q" is not an option'):
        parse("a dog --q 1", [DOG], "file")
    with pytest.raises(ConfigError, match="not a whole number"):
        parse("a dog --s many", [DOG], "file")


def test_the_table_in_the_docs_is_true():
    lines = (ROOT / "docs" / "reference" / "captions.md").read_text().splitlines()
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in lines
        if "`" in line and "|" in line
    ]
    rows = [row for row in rows if len(row) == 5]
    assert len(rows) == 8
    for name, caption, complete, base, target in rows:
        triple = derive(caption, {"dog": DOG, "ink": INK}[name], "docs")
        assert (triple.complete, triple.base, triple.target) == (complete, base, target)
