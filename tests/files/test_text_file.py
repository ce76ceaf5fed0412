"""Text files as editors write them, and files that are not text."""

import codecs

import pytest

from library.errors import ConfigError, DataError
from library.files.text_file import read_text

TEXT = "a café\r\nby the sea"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    ],
    ids=["UTF-8", "UTF-8 with a mark", "UTF-16 LE", "UTF-16 BE"],
)
def test_a_text_is_read_without_its_mark_and_with_its_line_ends(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    assert read_text(tmp_path / "a.txt") == TEXT


@pytest.mark.parametrize(
    ("content", "said"),
    [("b\ncafé".encode("latin-1"), "0xE9 in line 2"), (b"b\n\0", "in line 2"), (b"b" * 9, "larger than")],
)
def test_what_is_not_text_is_refused_as_the_caller_calls_it(tmp_path, content, said):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        read_text(tmp_path / "a.txt", "The caption", DataError, longest=8)
    assert f"The caption {tmp_path / 'a.txt'}" in str(error.value)


@pytest.mark.parametrize("name", ["nowhere.txt", "zero\0byte.txt", "."])
def test_a_file_that_can_not_be_read_is_named(tmp_path, name):
    with pytest.raises(ConfigError, match="can't be read"):
        read_text(tmp_path / name)
