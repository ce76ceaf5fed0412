"""Settings files as people write them: lines, wrong numbers and shapes, Windows paths, and damage."""

import dataclasses
import json
import random
import re
import typing

import pytest

from library.config.dataset_file import read_concepts_and_pictures, read_dataset_config
from library.config.fields import hints_of, name_of
from library.config.files import (
    TomlFile,
    add_settings_to,
    command_line_parser,
    read_settings,
    settings_given,
)
from library.config.groups import groups, setting_names
from library.config.settings import DataSettings
from library.errors import LONGEST_LINE, ConfigError, PureCCError
from tests.helpers.datasets import CONCEPT
from tests.helpers.places import ROOT

MODEL = 'pretrained_model_name_or_path = "m"\n'
SUBSET = "[[datasets.subsets]]\nimage_dir = 'a'\n"


@pytest.fixture
def read(tmp_path):
    """Reads a text as settings, and as a dataset file if it has one."""

    def read(text: str | bytes, name: str = "dog.toml", **given):
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        file = TomlFile(tmp_path / name)
        settings = read_settings(file, given)
        return settings, read_concepts_and_pictures(file, settings) if file.has_pictures else None

    return read


def lines_said(error: PureCCError) -> list[int]:
    """The lines that a message names, in order."""
    return [int(number) for number in re.findall(r"dog\.\w+:(\d+)", str(error))]


# Lines

TWO_SUBSETS = f"""{MODEL}{CONCEPT}
[[datasets]]
resolution = 64
  [[datasets.subsets]]
  image_dir = 'a'
  num_repeats = 10

  [[datasets.subsets]]
  image_dir = 'b'
  num_repeats = "ten"
"""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (TWO_SUBSETS, [15]),
        (TWO_SUBSETS.replace('"ten"', "1").replace("resolution = 64", "resolution = [1, 2, 3]"), [8]),
        (MODEL + CONCEPT + "[general]\nresolution = 1\n[[datasets]]\nbatch_size = 1\n" + SUBSET, [7]),
        (MODEL + CONCEPT + CONCEPT.replace("sks", "ohwx") + "[[datasets]]\n" + SUBSET, [7]),
        (MODEL + CONCEPT + CONCEPT.replace('"dog"', '"cat"', 1) + "[[datasets]]\n" + SUBSET, [8]),
        (MODEL + CONCEPT + "[[concepts]]\nname = 'x'\n[[datasets]]\n" + SUBSET, [6]),
        (MODEL + CONCEPT + "[[datasets]]\n" + SUBSET + "[[datasets.subsets]]\nnum_repeats = 2\n", [9]),
        (MODEL + "datasets = [\n {subsets = [\n  {image_dir = 'a'},\n  {image_dir = 5}]}]\n" + CONCEPT, [5]),
        (MODEL + f"{CONCEPT}[[datasets]]\n{SUBSET}custom_attributes = {{diff_output_preservation = 5}}\n", [9]),
        (MODEL + "[a]\nresolution = 64\n[b]\nx.y = 1\nresolution = 64\n", [5, 6, 3]),
        (MODEL + "[a]\neta = 1\n[b]\nseed = 1\neta = '1'\n", [6, 3]),
        (MODEL + "seed = 1\neta = 1\nseed = 3\n", [4, 2]),
        (MODEL + "eta = '''\n1\n'''\nseed = 'x'\n", [2, 5]),
        (MODEL + "# eta = '1'\nresolution = [\n 64,\n]\n'eta' = '1'\n", [6]),
    ],
)
def test_a_message_names_the_line_of_the_value_itself(read, text, lines):
    with pytest.raises(ConfigError) as error:
        read(text)
    assert lines_said(error.value) == lines, error.value


def test_the_lines_of_json_are_reported_too(read):
    subsets = [{"image_dir": "a", "num_repeats": 1}, {"image_dir": "b", "num_repeats": "two"}]
    text = json.dumps(
        {"concepts": [{"name": "d", "trigger": "s", "class_word": "d"}], "datasets": [{"subsets": subsets}]}
    )
    text = text.replace("{", "{\n").replace(",", ",\n")
    with pytest.raises(ConfigError) as error:
        read(text, "dog.json", pretrained_model_name_or_path="m")
    assert lines_said(error.value) == [text[: text.index('"two"')].count("\n") + 1]


def test_concepts_of_the_main_file_are_named_there(tmp_path):
    (tmp_path / "data.toml").write_text("\n\n\n[[datasets]]\n" + SUBSET)
    (tmp_path / "dog.toml").write_text(MODEL + f"dataset_config = '{tmp_path / 'data.toml'}'\n{CONCEPT}kin = 1\n")
    file = TomlFile(tmp_path / "dog.toml")
    with pytest.raises(ConfigError) as error:
        read_concepts_and_pictures(file, read_settings(file))
    assert lines_said(error.value) == [7] and "data.toml" not in str(error.value)


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_that_say_what_they_are_are_read(read, encoding, end):
    settings, _ = read((MODEL + "output_name = 'café'\n[x]\neta = 3\n").replace("\n", end).encode(encoding))
    assert (settings.saving.output_name, settings.pure_learning.eta) == ("café", 3)


def test_lists_of_several_types_are_toml(read):
    with pytest.raises(ConfigError, match=r"target_modules is .*it must be a list") as error:
        read(MODEL + "target_modules = ['to_q', 1]\n")
    assert lines_said(error.value) == [2]


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (r'"C:\Users\me\dog"', "'single quotes'"),
        (r'"C:\dogs\xray"', "'single quotes'"),
        (r'"D:\new\train\bob"', "'single quotes'"),
        (r"C:\new\dog", "'single quotes'"),
        ("C:/new/dog", "'single quotes'"),
        ("/home/me/dog", "'single quotes'"),
        ("~/dog", "'single quotes'"),
        ("my_dog", "'single quotes'"),
        ("\u201cC:/new/dog\u201d", "straight"),
        ("\u2018dog\u2019", "straight"),
        ("True", "true"),
        ("None", "Remove"),
    ],
)
def test_a_value_that_is_not_toml_is_told_how_to_be_written(read, value, remedy):
    for key, before in (
        ("pretrained_model_name_or_path", ""),
        ("image_dir", MODEL + CONCEPT + "[[datasets.subsets]]\n"),
    ):
        with pytest.raises(ConfigError) as error:
            read(f"{before}{key} = {value}\n".replace("[[datasets", "[[datasets]]\n[[datasets"))
        message = str(error.value)
        assert remedy in message and lines_said(error.value)[0] == before.count("\n") + 1 + bool(before), message
        assert all(line.isprintable() for line in message.split("\n"))


def test_a_path_of_control_characters_is_shown_as_it_is_written(read):
    with pytest.raises(ConfigError) as error:
        read('pretrained_model_name_or_path = "D:\\new\\train\\bob"\n')
    assert r"'D:\new\train\x08ob'" in str(error.value)


# Values

UNSOUND = ["inf", "-inf", "nan", "1e400", "9" * 400, "-" + "9" * 400]


def numeric(hint) -> str | None:
    """How a setting takes numbers: "one", "list", or not at all."""
    parts = typing.get_args(hint) if typing.get_origin(hint) not in (list, None, typing.Literal) else (hint,)
    if {int, float} & set(parts):
        return "one"
    return (
        "list"
        if any(typing.get_origin(part) is list and typing.get_args(part)[0] in (int, float) for part in parts)
        else None
    )


NUMERIC = {
    name_of(field): numeric(hints_of(group)[field.name])
    for group in groups().values()
    for field in dataclasses.fields(group)
    if numeric(hints_of(group)[field.name])
}


def test_no_setting_takes_nan_or_infinity(tmp_path):
    parser, names = command_line_parser("test"), sorted(NUMERIC)
    add_settings_to(parser)
    assert len(names) > 80
    for number in UNSOUND:
        for some in (names[begin : begin + 10] for begin in range(0, len(names), 10)):
            values = [number if NUMERIC[name] == "one" else f"[1, {number}]" for name in some]
            lines = [f"{name} = {value}\n" for name, value in zip(some, values, strict=True)]
            (tmp_path / "dog.toml").write_text(MODEL + "".join(lines))
            with pytest.raises(ConfigError) as error:
                read_settings(TomlFile(tmp_path / "dog.toml"))
            assert re.findall(r"dog\.toml:(\d+): (\w+) is", str(error.value)) == [
                (str(line), name) for line, name in enumerate(some, 2)
            ]
            words = [f"--{name}={number}" for name in some]
            with pytest.raises(ConfigError) as error:
                read_settings(None, {"pretrained_model_name_or_path": "m", **settings_given(parser.parse_args(words))})
            assert re.findall(r"command line: (\w+) is", str(error.value)) == some


def test_no_dataset_file_takes_nan_or_infinity(read):
    for number in UNSOUND:
        for name in (
            "resolution",
            "batch_size",
            "num_repeats",
            "keep_tokens",
            "caption_dropout_rate",
            "validation_split",
        ):
            for text in (
                f"[general]\n{name} = {number}\n[[datasets]]\n{SUBSET}",
                f"[[datasets]]\n{name} = [[{number}]]\n{SUBSET}",
            ):
                with pytest.raises(ConfigError, match=rf"{name} is"):
                    read(MODEL + CONCEPT + text)


@pytest.mark.parametrize(
    "name", ["unet_lr", "max_token_length", "lr_warmup_steps", "save_n_epoch_ratio", "noise_offset"]
)
def test_settings_of_sd_scripts_take_none_either(read, name):
    for number in UNSOUND:
        with pytest.raises(ConfigError, match=f"{name} is"):
            read(f"{MODEL}{name} = {number}\n")


def test_numbers_with_thousands_of_digits_are_reported(read):
    for name in ("dog.toml", "dog.json"):
        with pytest.raises(ConfigError, match="thousands of digits") as error:
            read(f"\n\neta = {'9' * 5000}\n" if name == "dog.toml" else f'{{\n\n"eta": {"9" * 5000}}}', name)
        assert lines_said(error.value) == [3]


@pytest.mark.parametrize("word", ["(" * 300, "-" * 100_000 + "1", "{[1]: 2}", "9" * 5000, "\\", "0x", "[1", "None"])
def test_any_word_of_the_command_line_is_a_value_or_a_mistake(word):
    parser = command_line_parser("test")
    add_settings_to(parser)
    with pytest.raises(ConfigError, match="eta is"):
        read_settings(None, settings_given(parser.parse_args([f"--eta={word}"])))


@pytest.mark.parametrize("text", ["a\\u0000b", "\\ud800"])
def test_texts_that_no_file_can_hold_are_refused(read, text):
    for name in ("output_dir", "metadata_title", "trigger", "pretrained_model_name_or_path"):
        with pytest.raises(ConfigError, match=r"dog\.json:2"):
            read(f'{{\n"{name}": "{text}"}}', "dog.json")
    with pytest.raises(ConfigError, match=r"dog\.json:3"):
        read(
            f'{{"datasets": [{{"subsets": [\n{{"image_dir": "a"}},\n{{"image_dir": "{text}"}}]}}]}}',
            "dog.json",
            pretrained_model_name_or_path="m",
            trigger="a",
            class_word="b",
        )


TEXTS = [
    name_of(field)
    for group in groups().values()
    for field in dataclasses.fields(group)
    if not {bool, int, float, list} & {hints_of(group)[field.name], typing.get_origin(hints_of(group)[field.name])}
    and "pretrained" not in field.name
]


def test_an_empty_text_leaves_every_setting_unset(read):
    assert {"log_with", "save_precision", "lr_scheduler", "output_name", "vae"} < set(TEXTS)
    unset, _ = read(MODEL)
    for name in TEXTS:
        assert read(f'{MODEL}{name} = ""\n')[0] == unset, name
        assert read(MODEL, **{name: ""})[0] == unset, name
    with pytest.raises(ConfigError, match="pretrained_model_name_or_path is missing"):
        read('pretrained_model_name_or_path = ""\n')


def test_an_empty_text_in_a_dataset_file_is_the_default_and_not_an_outer_value(read):
    general = "[general]\ncaption_prefix = 'x'\ncaption_separator = ';'\n[[datasets]]\n"
    _, config = read(
        MODEL + CONCEPT + general + SUBSET + "caption_prefix = ''\ncaption_separator = ''\n" + SUBSET + "concept = ''\n"
    )
    (first,) = config.datasets[0].subsets
    assert (first.caption_prefix, first.caption_separator) == (None, ",")


# Shapes

WHOLE = MODEL + CONCEPT + "[[datasets]]\n" + SUBSET


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (MODEL + "general = 5\n" + CONCEPT + "[[datasets]]\n" + SUBSET, 2, "general must be a table"),
        (MODEL + "general = [1]\n" + CONCEPT + "[[datasets]]\n" + SUBSET, 2, "general must be a table"),
        (MODEL + CONCEPT + "[datasets]\nresolution = 64\n", 6, r"Write \[\[datasets\]\]"),
        (MODEL + "datasets = 5\n" + CONCEPT, 2, r"Write \[\[datasets\]\]"),
        (MODEL + "datasets = [5]\n" + CONCEPT, 2, r"Write \[\[datasets\]\]"),
        (MODEL + CONCEPT + "[[datasets]]\nsubsets = 5\n", 7, r"Write \[\[datasets.subsets\]\]"),
        (MODEL + CONCEPT + "[[datasets]]\nsubsets = {image_dir = 'a'}\n", 7, r"Write \[\[datasets.subsets\]\]"),
        (MODEL + CONCEPT + "[[datasets]]\n[datasets.subsets]\nimage_dir = 'a'\n", 7, r"Write \[\[datasets.subsets\]\]"),
        (MODEL + "concepts = {name = 'a'}\n[[datasets]]\n" + SUBSET, 2, r"Write \[\[concepts\]\]"),
        (WHOLE + "custom_attributes = 5\n", 9, "custom_attributes must be a table"),
        (MODEL + "eta = {a = 1}\n", 2, "eta"),
        (MODEL + "target_modules = {a = 1}\n", 2, "target_modules"),
        (MODEL + "[[eta]]\n", 2, "eta"),
    ],
)
def test_a_file_of_another_shape_is_reported_with_its_line(read, text, line, said):
    with pytest.raises(ConfigError, match=said) as error:
        read(text)
    assert line in lines_said(error.value), error.value


# Messages


@pytest.mark.parametrize(
    "text",
    [
        MODEL + f"eta = '{'x' * 70_000}'\n",
        MODEL + f"eta = {[1] * 20_000}\n",
        MODEL + f"{'x' * 70_000} = 1\n",
        MODEL + "zzzz_of_nothing = 1\n",
        MODEL + f"output_name = '{':' * 70_000}'\n",
        "".join(f"no_{number} = 1\n" for number in range(3000)),
        "".join(f"{name} = {{}}\n" for name in setting_names()),
        MODEL
        + CONCEPT
        + "[[datasets]]\n"
        + "".join(f"[[datasets.subsets]]\nnum_repeats = 'x{n}'\n" for n in range(400)),
        f"{'x' * 70_000}\n",
    ],
)
def test_a_message_is_at_most_a_screen(read, text):
    with pytest.raises(ConfigError) as error:
        read(text)
    lines = str(error.value).split("\n")
    assert len(lines) <= 45 and max(map(len, lines)) <= LONGEST_LINE + 100
    assert sum(map(len, lines)) < 12_000
    assert "Choose one of" not in str(error.value)


# Damage

SCRAPS = [
    *(
        "inf",
        "nan",
        "-1",
        "0",
        "1e400",
        "9" * 400,
        "[[]]",
        "{}",
        "[1, 'a']",
        "{a = {b = [1]}}",
        '""',
        '"\\u0000"',
        "'x'",
    ),
    *("true", "1979-05-27", "[[general]]\n", "[general]\n", "[datasets]\n", "[[datasets]]\n", "[[datasets.subsets]]\n"),
    *(
        "general = 5\n",
        "concepts = []\n",
        "subsets = [1]\n",
        "=",
        "\n",
        "'",
        '"',
        '"""',
        "#",
        "\x00",
        "\x1b",
        "{",
        "]",
        ",",
    ),
    *(
        "network_args = [1]\n",
        "network_args = 'a'\n",
        "resolution = '1,2'\n",
        "class_tokens = [1]\n",
        "kind = 'style'\n",
    ),
]
SOURCES = sorted(
    [
        *(ROOT / "tests" / "kohya").glob("*.toml"),
        *(ROOT / "dataset_configs").glob("*.toml"),
        *(ROOT / "presets").glob("*.toml"),
    ]
)


def damaged(text: str, chance: random.Random) -> str:
    """A text with some random damage."""
    for _ in range(chance.randrange(1, 5)):
        lines = text.split("\n")
        number, at = chance.randrange(len(lines)), chance.randrange(len(text) + 1)
        kind = chance.randrange(6)
        if kind == 0 and "=" in lines[number]:
            lines[number] = f"{lines[number].partition('=')[0]}= {chance.choice(SCRAPS)}"
        elif kind == 1:
            lines.insert(number, chance.choice(lines))
        elif kind == 2:
            lines.insert(number, chance.choice(SCRAPS))
        elif kind == 3:
            del lines[number]
        else:
            end = at + chance.randrange(3)
            lines = (text[:at] + (chance.choice(SCRAPS) if kind == 4 else "") + text[end:]).split("\n")
        text = "\n".join(lines)
    return text


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_read_or_refused_in_a_sentence(tmp_path, seed):
    chance, refused = random.Random(seed), 0
    for _ in range(100):
        source = chance.choice(SOURCES)
        text = damaged(source.read_text(), chance)
        (tmp_path / "dog.toml").write_text(text, errors="surrogatepass")
        try:
            file = TomlFile(tmp_path / "dog.toml")
            if source.name.startswith("data_") or source.parent.name == "dataset_configs":
                read_dataset_config(file, DataSettings())
            else:
                settings = read_settings(file, {"pretrained_model_name_or_path": "m"})
                read_concepts_and_pictures(file, settings) if file.has_pictures else None
        except PureCCError as error:
            refused += 1
            assert len(str(error)) < 12_000
        except Exception as fault:
            raise AssertionError(text) from fault
    assert refused > 20
