"""Which files are pictures, and that a broken one is named."""

import pytest
from PIL import Image

from library.errors import DataError
from library.files.picture_files import is_hidden, is_picture, opened, pictures_in, read_bytes


def test_pictures_of_a_folder_are_those_by_their_names_in_order(tmp_path):
    for name in ("b.png", "a.JPG", "c.webp", "._b.png", ".a.png", "Thumbs.db", "a.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in pictures_in(tmp_path)] == ["a.JPG", "b.png", "c.webp"]
    assert is_hidden("Thumbs.db") and not is_picture("._b.png") and is_picture("b.png")


def test_what_is_hashed_is_what_is_decoded_even_if_the_file_is_gone(tmp_path):
    Image.new("RGB", (3, 2), "red").save(tmp_path / "a.png")
    content = read_bytes(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    assert opened(tmp_path / "a.png", lambda picture: picture.size, content) == (3, 2)
    with pytest.raises(DataError, match=r"a\.png"):
        read_bytes(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png"):
        opened(tmp_path / "a.png", lambda picture: picture.load(), content[:-30])
