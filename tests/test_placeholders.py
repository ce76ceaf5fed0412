"""Placeholders of other programs in captions are known, and ours and a user's own trigger are left alone."""

import pytest

from library.prompts import foreign_placeholders, with_our_placeholder

KNOWN = [
    "[trigger]",
    "[v]",
    "[ V ]",
    "[name]",
    "<trigger>",
    "<v>",
    "[[V]]",
    "{trigger}",
    "{}",
    "[V*]",
    "V*",
    "S*",
    "TOK",
]


@pytest.mark.parametrize("written", [*KNOWN, "[Trigger_Word]", "<name>", "【V】", "{{v}}"])
def test_what_other_programs_write_becomes_ours(written):
    assert foreign_placeholders(f"a photo of {written} dog, and {written}") == [written]
    assert with_our_placeholder(f"a photo of {written} dog") == "a photo of [V] dog"


@pytest.mark.parametrize(
    "text",
    [
        "a [V] dog",
        "a [dog]",
        "{red|blue} dog",
        "<lora:x:1>",
        "a name",
        "TOKYO",
        "a (v) dog",
        "[v",
        "a box [ ]",
        "<>",
        "3*V*2",
        "f(v)",
    ],
)
def test_what_is_meant_as_it_stands_is_left_alone(text):
    assert foreign_placeholders(text) == [] and with_our_placeholder(text) == text


@pytest.mark.parametrize("trigger", ["TOK", "<v>", "[name]"])
def test_a_users_trigger_may_look_like_one(trigger):
    text = f"a {trigger} dog"
    assert foreign_placeholders(text, trigger) == [] and with_our_placeholder(text, trigger) == text
    assert foreign_placeholders(f"{text}, [trigger]", trigger) == ["[trigger]"]
