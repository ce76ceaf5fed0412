"""For every error of Pillow about a damaged picture, the user reads one sentence that names the file."""

import random
import warnings
from io import BytesIO

import pytest
from PIL import Image, ImageFile

from library.data.images import has_several, image_size, open_image
from library.data.inspection import look_at
from library.data.masks import alpha_of, has_alpha, read_mask
from library.errors import DataError
from library.files.picture_files import opened
from library.report.sheet import read_sheet

READERS = {
    "image_size": lambda path: image_size(path),
    "open_image": lambda path: open_image(path),
    "bytes": lambda path: open_image(path, path.read_bytes()),
    "has_several": lambda path: has_several(path),
    "look_at": lambda path: look_at(path),
    "mask": lambda path: read_mask(path, path.read_bytes()),
    "alpha": lambda path: (has_alpha(path, path.read_bytes()), alpha_of(path, path.read_bytes())),
}
KINDS = {"PNG": {}, "JPEG": {}, "WEBP": {}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}, "GIF": {}, "AVIF": {}}
ROUNDS = 40


def whole(kind: str) -> bytes:
    """A small picture with an EXIF rotation, if its format has one."""
    chance, content = random.Random(0), BytesIO()
    image = Image.frombytes("RGB", (24, 16), bytes(chance.randrange(256) for _ in range(24 * 16 * 3)))
    exif = Image.Exif()
    exif[0x0112] = 6
    given = {} if kind in ("BMP", "GIF") else {"exif": exif}
    image.save(content, kind, **KINDS[kind], **given)
    return content.getvalue()


def damaged(content: bytes, chance: random.Random) -> bytes:
    """With some bytes changed, mostly near the start, where a format says what follows, or cut, or partly doubled."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 2, 8))):
        place = chance.randrange(min(len(changed), chance.choice((32, 200, len(changed)))))
        changed[place] = chance.choice((0, 1, 255, chance.randrange(256)))
    how, place = chance.randrange(6), chance.randrange(len(changed))
    if how == 0:
        del changed[place:]
    elif how == 1:
        changed[place:place] = changed[place : place + 16]
    return bytes(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_picture_is_read_or_refused_in_a_sentence(tmp_path, kind):
    chance, path, refused = random.Random(kind), tmp_path / "a.png", 0
    for _ in range(ROUNDS):
        path.write_bytes(damaged(whole(kind), chance))
        for name, read in READERS.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(path)
            except DataError as error:
                refused += 1
                assert str(path) in error.what, name
        read_sheet(path)
    assert refused, "some damage is noticed"


def test_a_tiff_without_dimensions_cannot_be_read(tmp_path):
    content = bytearray(whole("TIFF"))
    begin = int.from_bytes(content[4:8], "little")
    for number in range(int.from_bytes(content[begin : begin + 2], "little")):
        tag = begin + 2 + 12 * number
        if int.from_bytes(content[tag : tag + 2], "little") in (256, 257):
            content[tag : tag + 2] = b"\xf0\xff"
    (tmp_path / "a.tif").write_bytes(content)
    for name, read in READERS.items():
        with pytest.raises(DataError, match=r"a\.tif can't be read"):
            read(tmp_path / "a.tif")
            pytest.fail(name)


@pytest.mark.parametrize("error", [TypeError("x"), KeyError(7), RuntimeError(), IndexError("i"), AttributeError("a")])
def test_every_kind_of_error_of_the_library_is_one_to_the_user(tmp_path, monkeypatch, error):
    def fails(self):
        raise error

    path = tmp_path / "a.png"
    path.write_bytes(whole("PNG"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", fails)
    with pytest.raises(DataError, match=r"a\.png can't be read: it is damaged"):
        open_image(path)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), DataError("our own.")])
def test_errors_not_about_the_picture_pass_through(tmp_path, error):
    def fails(image):
        raise error

    path = tmp_path / "a.png"
    path.write_bytes(whole("PNG"))
    with pytest.raises(type(error)) as raised:
        opened(path, fails)
    assert raised.value is error
