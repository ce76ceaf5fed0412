"""Laws of caption variants: [V] is never lost, and the three texts always come from the same variant."""

import random

import pytest

from library.data.variants import drawn
from library.prompts import triggers_in
from tests.helpers.datasets import DOG, INK

TAGS = "a dog, city, night, house, grass, red ball"


WAYS = [
    {"shuffle_caption": True},
    {"shuffle_caption": True, "keep_tokens": 2},
    {"caption_tag_dropout_rate": 0.9},
    {"caption_tag_dropout_rate": 1.0, "shuffle_caption": True},
    {"caption_prefix": "photo,", "shuffle_caption": True},
]


@pytest.mark.parametrize("concept", [DOG, INK], ids=["subject", "style"])
@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_the_concept_is_in_every_complete_text_and_in_no_base_text(prompts, concept, settings):
    for triple in prompts(TAGS, concept, **settings):
        assert len(triggers_in(triple.complete, concept.trigger)) == 1
        assert not triggers_in(triple.base, concept.trigger)
        assert "[V]" not in triple.complete + triple.base


@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_base_and_complete_are_the_same_variant(prompts, settings):
    for triple in prompts(TAGS, **settings):
        assert triple.complete.replace("sks ", "") == triple.base


def test_variants_follow_from_the_seed(prompts):
    assert prompts(TAGS, shuffle_caption=True) == prompts(TAGS, shuffle_caption=True)
    assert prompts(TAGS, shuffle_caption=True) != prompts(TAGS, seed=1, shuffle_caption=True)
    assert len(prompts(TAGS, count=3, shuffle_caption=True)) == 3
    assert len(prompts(TAGS)) == 1


def test_kept_tags_stay_and_others_move(prompts):
    variants = [triple.base.split(", ") for triple in prompts(TAGS, shuffle_caption=True, keep_tokens=2)]
    assert all(tags[:2] == ["a dog", "city"] for tags in variants)
    assert len({tuple(tags) for tags in variants}) > 1
    assert all(sorted(tags) == sorted(TAGS.split(", ")) for tags in variants)


def test_separators_for_shuffling_are_never_part_of_a_text(prompts):
    (triple,) = prompts("a dog|||city", keep_tokens_separator="|||", secondary_separator=";;;")
    assert triple.base == "a dog, city"


def test_regularisation_captions_get_no_concept(prompts):
    for caption in ("a dog, city", "a [V] dog, city", "a sks dog, city", "a house"):
        for triple in prompts(caption, is_reg=True, shuffle_caption=True):
            assert triple.complete == triple.base and triple.target == triple.class_only == "dog"
            assert not triggers_in(triple.complete, "sks")


def test_wildcards(prompts):
    chance = random.Random(0)
    assert {drawn("a {red|blue} dog", chance) for _ in range(20)} == {"a red dog", "a blue dog"}
    assert {drawn("{a|{b|c} d}", chance) for _ in range(40)} == {"a", "b d", "c d"}
    assert drawn("{{a|b}}", chance) == "{a|b}"
    assert {drawn("{2$$ and $$x|y}", chance) for _ in range(20)} == {"x and y", "y and x"}
    assert drawn("a } b", chance) == "a } b"


def test_lines_of_a_caption_file_only_count_with_wildcards(prompts):
    assert {triple.base for triple in prompts("a dog\n\na big dog")} == {"a dog"}
    assert {triple.base for triple in prompts("a {big|small} dog\nthat dog", enable_wildcard=True)} == {
        "a big dog",
        "a small dog",
        "that dog",
    }
