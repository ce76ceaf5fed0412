"""Prompt files with any content are read as in sd-scripts, or refused in one sentence with file and place."""

import json
import random

import pytest

from library.drawing.sample_prompts import parse, read_prompt_lines, read_samples
from library.errors import ConfigError, PureCCError
from library.evaluation.probes import read_probes
from tests.helpers.datasets import DOG

PROMPTS = "a [V] dog, café\na house --w 64 --d 7\n"


def read(path) -> list:
    return read_samples(str(path), [DOG], lambda width, height: None)


@pytest.mark.parametrize(
    "content",
    [
        PROMPTS.encode(),
        PROMPTS.encode("utf-8-sig"),
        PROMPTS.replace("\n", "\r\n").encode(),
        PROMPTS.replace("\n", "\r").encode(),
        PROMPTS.encode("utf-16"),
        b"\xfe\xff" + PROMPTS.encode("utf-16-be"),
    ],
    ids=["UTF-8", "with a mark", "CRLF", "CR", "UTF-16", "UTF-16, big end first"],
)
def test_encodings_that_say_what_they_are_are_read(tmp_path, content):
    (tmp_path / "p.txt").write_bytes(content)
    assert [prompt.text for prompt in read(tmp_path / "p.txt")] == ["a sks dog, café", "a house"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a dog\na [V] dog, café".encode("latin-1"), r"p\.txt is not UTF-8 text: byte 0xE9 in line 2"),
        ("a dog\na cat".encode("utf-16-le"), r"p\.txt is not a text file: .* zero bytes, the first in line 1"),
        (b"\xff\xfea", r"p\.txt is not UTF-8 text"),
        (b"a dog\n" * 200_000, r"p\.txt is larger than 1 MB"),
        (b"# nothing\n\n", r"p\.txt contains no prompt"),
    ],
    ids=["Latin-1", "UTF-16 without a mark", "half a character", "a megabyte", "comments alone"],
)
@pytest.mark.parametrize("setting", ["sample_prompts", "replay_prompts", "audit_prompts"])
def test_what_is_not_text_names_setting_file_and_place(tmp_path, content, said, setting):
    path = tmp_path / "p.txt"
    path.write_bytes(content)
    reader = {
        "sample_prompts": lambda: read(path),
        "replay_prompts": lambda: read_prompt_lines(str(path), "replay_prompts"),
        "audit_prompts": lambda: read_probes(str(path), DOG, [0]),
    }
    with pytest.raises(ConfigError, match=f"{setting}: .*{said}"):
        reader[setting]()


SHAPES = {
    "[5]": r"prompt 1 is 5, not a table",
    "[null]": r"prompt 1 is None, not a table",
    "[[]]": r"prompt 1 is \[\], not a table",
    '["a dog", 5]': r"prompt 2 is 5, not a table",
    '{"prompt": 5}': "prompt is not a table",
    '{"prompt": {"subset": 5}}': r"prompt\.subset is not a list of tables",
    '{"prompt": {"subset": [{"prompt": 5}]}}': r"prompt 1 has 5 as prompt",
    '[{"prompt": "a dog", "width": [1]}]': r"prompt 1: width is \[1\]; it must be a whole number",
    '[{"prompt": "a dog", "width": true}]': r"prompt 1: width is True; it must be a whole number",
    '[{"prompt": "a dog", "negative_prompt": 5}]': r"prompt 1: negative_prompt is 5; it must be a string",
    '[{"prompt": "a dog", "scale": "much"}]': r"prompt 1: --l is 'much', which is not a number",
    '[{"width": 64}]': "prompt 1 has no prompt",
    '[{"prompt": "a dog"}, {"prompt": "a cat", "widht": 5}]': 'prompt 2: "widht" is not a key',
    '["a dog \\ud800"]': "contains half of a character",
    "[]": "contains no prompt",
    "{}": "contains no prompt",
    "[": "is not valid JSON",
}


@pytest.mark.parametrize("text", SHAPES)
def test_json_of_the_wrong_shape_names_file_and_entry(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"sample_prompts: .*p\.json.*{SHAPES[text]}"):
        read(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt = 5", "prompt is not a table"),
        ("[prompt]\nsubset = 5", r"prompt\.subset is not a list of tables"),
        ("[prompt]\nsubset = [1]", "prompt 1 is 1, not a table"),
        ("[[prompt]]\nprompt = 'a'", "prompt is not a table"),
        ("prompt = ", "is not valid TOML"),
    ],
)
def test_toml_of_the_wrong_shape_names_file_and_entry(tmp_path, text, said):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"sample_prompts: .*p\.toml.*{said}"):
        read(tmp_path / "p.toml")


def test_json_may_list_lines_and_leave_values_unset_as_in_sd_scripts(tmp_path):
    (tmp_path / "p.json").write_text('["a [V] dog --w 64", {"prompt": "a house", "seed": null, "enum": 1}]')
    one, two = read(tmp_path / "p.json")
    assert (one.text, one.width, two.text, two.seed) == ("a sks dog", 64, "a house", None)


# Options


def test_options_of_sd_scripts_that_change_nothing_are_ignored_with_a_reason(tmp_path):
    (tmp_path / "p.txt").write_text(
        "a house\na [V] dog --ss euler_a --W 64 --cn pose.png --ctr 0.5 --rcfg 1 --am 0.5\n"
    )
    _, prompt = read(tmp_path / "p.txt")
    assert (prompt.text, prompt.width) == ("a sks dog", 64)
    assert len(prompt.passed_over) == 5
    assert "p.txt, line 2: --ss is ignored: " in prompt.passed_over[0]
    (tmp_path / "p.json").write_text('[{"prompt": "a house", "sample_sampler": "ddim", "guidance_scale": 3.5}]')
    assert ["--ss" in said for said in read(tmp_path / "p.json")[0].passed_over] == [True]


@pytest.mark.parametrize(
    ("line", "said", "remedy"),
    [
        ("a dog --no hat", r'line 2: "--no" is not an option', '"--n"'),
        ("a dog --steps 20", r'line 2: "--steps" is not an option', "--s"),
        ("a dog --w wide", "line 2: --w is 'wide', which is not a whole number", None),
        ("a dog --l nan", "line 2: --l is 'nan', which is not a number", None),
        ("a dog --l 1e999", "line 2: --l is '1e999', which is not a number", None),
        ("a dog --w 0", "line 2: --w is 0; it must be at least 1", None),
        ("a dog --s 0", "line 2: --s is 0; it must be at least 1", None),
        ("a dog --d -1", "line 2: --d is -1; a seed is 0 or more", None),
        ("a dog --d " + "9" * 30, "line 2: --d is .* not a whole number", None),
        ("a dog --fs 0", "line 2: --fs is 0; a shift must be above 0", "3"),
    ],
)
def test_a_mistake_in_an_option_names_file_and_line_and_the_nearest_right_thing(tmp_path, line, said, remedy):
    (tmp_path / "p.txt").write_text(f"a house\n{line}\n")
    with pytest.raises(ConfigError, match=rf"sample_prompts: .*p\.txt, {said}") as error:
        read(tmp_path / "p.txt")
    assert remedy is None or remedy in error.value.remedy


def test_the_plan_reports_what_is_ignored(plan_of, tmp_path, capsys):
    (tmp_path / "own.txt").write_text("a [V] dog --ss ddim\n")
    plan_of(sample_prompts=str(tmp_path / "own.txt"))
    assert "own.txt, line 1: --ss is ignored" in capsys.readouterr().err


# Damage

WHOLE = {
    "p.txt": 'a [V] dog on the beach --w 64 --h 64 --d 7 --n ugly, bad --l 4.5\n# said\n""\na blue house --s 20\n',
    "p.json": json.dumps(
        [{"prompt": "[V] dog", "width": 64, "seed": 3, "scale": 5.5, "negative_prompt": "ugly"}, "a house --w 64"]
    ),
    "q.json": json.dumps({"prompt": {"width": 64, "subset": [{"prompt": "[V] dog", "flow_shift": 3}]}}),
    "p.toml": '[prompt]\nwidth = 64\nscale = 5.5\n[[prompt.subset]]\nprompt = "[V] dog"\nnegative_prompt = "ugly"\n',
}
PIECES = [
    b"\x00",
    b"\xff\xfe",
    b"\xe9",
    b"5",
    b"null",
    b"[]",
    b"{}",
    b'"',
    b"\n",
    b"--",
    b" --w ",
    b"-1",
    b"1e999",
    b",",
]
PIECES += [b"[V]", b"'", b"prompt", b"=", b"[", b"9" * 30, b"true", b"NaN", b"\\u0000", b"\\ud800"]


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with some bytes removed, doubled, changed, or something strange inserted."""
    for _ in range(chance.randint(1, 4)):
        begin = chance.randrange(len(content) + 1)
        end = min(len(content), begin + chance.randint(0, 12))
        middle = chance.choice([b"", content[begin:end] * 2, chance.choice(PIECES), bytes([chance.randrange(256)])])
        content = content[:begin] + middle + content[end:]
    return content


@pytest.mark.parametrize("name", WHOLE)
def test_a_damaged_prompt_file_is_read_or_refused_in_a_sentence(tmp_path, name):
    """The only possible error is ours, which names the file."""
    chance, path, refused = random.Random(name), tmp_path / name, 0
    path.write_text(WHOLE[name])
    assert read(path) and read_probes(None, DOG, [0])
    for number in range(250):
        path.write_bytes(damaged(WHOLE[name].encode(), chance))
        try:
            read(path)
        except PureCCError as error:
            refused += 1
            assert name in error.what and len(error.what) < 1000, (number, path.read_bytes())
    assert 20 < refused < 250


def test_a_line_of_any_characters_is_read_or_refused():
    chance = random.Random(0)
    for _ in range(500):
        line = "".join(
            chance.choice(["--", " ", "w", "n", "ss", "D", "5", "-", "[V]", "dog", "é", "\t"]) for _ in range(12)
        )
        try:
            parse(line, [DOG], "p.txt, line 1")
        except PureCCError as error:
            assert "p.txt, line 1" in error.what
