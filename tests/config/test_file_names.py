"""Names of results that work on every system."""

import pytest

from library.config.file_names import why_not_a_name, why_not_an_ending
from library.config.files import read_settings
from library.errors import ConfigError

REFUSED = [
    *("..", ".", ".hidden", "../../dog", "a\\b", "a/b", "C:dog", "dog:stream", "a*", "a?", "a<b", "a>b", "a|b", 'a"b'),
    *("con", "NUL", "aux.dog", "Com1", "lpt9", "COM\u00b2", "prn ", "conin$", "nul .x"),
    *("dog.", "dog ", "dog\u3000", "a\nb", "a\tb", "\x1b[31mdog", "a\x7f", "a\x9bb", "a\u2028b"),
]
TAKEN = [
    "dog",
    "ünï 犬's",
    "a.b",
    "my dog v1.0",
    "console",
    "com10",
    "nuls",
    "🐕‍🦺",
    "100%",
    "(1) [x] #2",
    "-dog",
    "_",
    "con_1",
]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("setting", ["output_name", "log_prefix"])
def test_a_name_that_some_system_refuses_is_refused_on_every_one(setting, name):
    with pytest.raises(ConfigError, match=f"{setting} is") as error:
        read_settings(None, {"pretrained_model_name_or_path": "m", setting: name})
    assert str(error.value).isprintable() or str(error.value).replace("\n", "").isprintable()


@pytest.mark.parametrize("name", TAKEN)
def test_a_name_that_every_system_takes_is_taken(name):
    read = read_settings(None, {"pretrained_model_name_or_path": "m", "output_name": name})
    assert read.saving.output_name == name and why_not_a_name(name) is None


def test_endings_of_files():
    assert not any(why_not_an_ending(one) for one in (".txt", "caption", ".my.txt", ".ÄÖ"))
    assert all(why_not_an_ending(one) for one in ("", ".", "/x", "a/b", ".t:t", ".txt ", ".txt.", ".\0"))
