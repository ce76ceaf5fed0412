"""Pictures of every kind that people have, in the right colours and the right way up, or refused in one sentence."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile, PngImagePlugin

from library.config.dataset_file import read_dataset_config
from library.config.files import TomlFile
from library.config.settings import DataSettings
from library.data.images import has_several, image_size, open_image
from library.data.latents import Latents
from library.data.pictures import Draw, find_pictures
from library.data.whole import png_chunks
from library.errors import DataError
from library.files.cache import Cache
from tests.helpers.datasets import CONCEPT

CORNERS = {(0, 0): (255, 0, 0), (39, 0): (0, 255, 0), (0, 23): (0, 0, 255), (39, 23): (255, 255, 255)}
"""Colours at the corners of a picture that is the right way up."""


def upright() -> Image.Image:
    image = Image.new("RGB", (40, 24), "black")
    for (x, y), colour in CORNERS.items():
        image.paste(colour, (min(x, 32), min(y, 16), min(x, 32) + 8, min(y, 16) + 8))
    return image


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand: PIL can't write 16-bit colour or a false size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")


def rows_of(pixel: bytes) -> bytes:
    return (b"\0" + pixel * 8) * 8


def colour_of(path: Path) -> tuple[int, int, int]:
    """The colour of a plain picture, as it is learned."""
    image = open_image(path)
    assert image.mode == "RGB" and image_size(path) == image.size
    return image.getpixel((4, 4))


# Colours


@pytest.mark.parametrize(
    ("name", "content", "colour"),
    [
        ("grey", png(8, 8, 16, 0, rows_of(b"\x80\x40")), (128, 128, 128)),
        ("grey and alpha", png(8, 8, 16, 4, rows_of(b"\x40\0\xff\xff")), (64, 64, 64)),
        ("colour", png(8, 8, 16, 2, rows_of(b"\xff\xff\x80\0\0\0")), (255, 128, 0)),
        ("colour and alpha", png(8, 8, 16, 6, rows_of(b"\xff\xff\0\0\0\0\x80\0")), (255, 127, 127)),
    ],
)
def test_16_bits_are_scaled_and_not_cut(tmp_path, name, content, colour):
    (tmp_path / "16.png").write_bytes(content)
    assert colour_of(tmp_path / "16.png") == colour


def test_cmyk_is_not_negative(tmp_path):
    for colour, seen in {
        (0, 255, 255, 0): (255, 0, 0),
        (0, 0, 0, 255): (0, 0, 0),
        (0, 0, 0, 0): (255, 255, 255),
    }.items():
        Image.new("CMYK", (8, 8), colour).save(tmp_path / "print.jpg", quality=100)
        assert np.abs(np.subtract(colour_of(tmp_path / "print.jpg"), seen)).max() <= 2


def swapped_profile() -> bytes:
    """A colour profile in which red is the screen's green."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    content = content.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    red, green = (content.index(name, 128) for name in (b"rXYZ", b"gXYZ"))
    content[red : red + 4], content[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(content)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_picture_with_a_profile_of_its_own_is_seen_as_on_a_screen(tmp_path, mode):
    image = Image.new(mode, (8, 8), (255, 0, 0))
    image.save(tmp_path / "phone.png", icc_profile=swapped_profile())
    assert np.abs(np.subtract(colour_of(tmp_path / "phone.png"), (0, 255, 0))).max() <= 2
    image.save(tmp_path / "plain.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    image.save(tmp_path / "damaged.png", icc_profile=b"no profile")
    assert colour_of(tmp_path / "plain.png") == colour_of(tmp_path / "damaged.png") == (255, 0, 0)


def with_palette(transparent) -> bytes:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, 4, 8))
    content = BytesIO()
    image.save(content, "PNG", transparency=transparent)
    return content.getvalue()


def test_what_is_transparent_becomes_white(tmp_path):
    half = {
        "palette.png": with_palette(0),
        "soft palette.png": with_palette(b"\0\xff"),
        "colour key.png": png(8, 8, 8, 2, rows_of(b"\x01\x02\x03"), chunk(b"tRNS", b"\0\x01\0\x02\0\x03")),
        "grey key.png": png(8, 8, 8, 0, rows_of(b"\x07"), chunk(b"tRNS", b"\0\x07")),
    }
    for name, content in half.items():
        (tmp_path / name).write_bytes(content)
        assert open_image(tmp_path / name).getpixel((6, 4)) == (255, 255, 255), name
    assert open_image(tmp_path / "palette.png").getpixel((1, 4)) == (0, 0, 255)
    Image.new("RGBA", (8, 8), (0, 0, 0, 128)).save(tmp_path / "half.webp", lossless=True)
    assert colour_of(tmp_path / "half.webp") == (127, 127, 127)


def test_of_an_animation_the_first_picture_is_learned(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.webp", "a.png", "a.tiff"):
        lossless = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **lossless)
        assert colour_of(tmp_path / name) == (255, 0, 0) and has_several(tmp_path / name)
    frames[0].save(tmp_path / "one.webp")
    assert not has_several(tmp_path / "one.webp")


@pytest.mark.parametrize(("kind", "said"), [(np.float32, "floating-point numbers"), (np.int32, "32-bit integers")])
def test_numbers_that_are_not_colours_are_refused(tmp_path, kind, said):
    Image.fromarray(np.full((8, 8), 40000, kind)).save(tmp_path / "depth.tif")
    for find in (image_size, open_image):
        with pytest.raises(DataError, match=rf"depth\.tif contains {said} instead of colours"):
            find(tmp_path / "depth.tif")


# The right way up

STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera stores a picture, by what it says of it in EXIF."""


@pytest.mark.parametrize("orientation", STORED)
def test_a_picture_is_turned_as_its_exif_says(tmp_path, orientation):
    turn, exif = STORED[orientation], Image.Exif()
    stored = upright() if turn is None else upright().transpose(turn)
    exif[0x0112] = orientation
    paths = [tmp_path / f"a.{ending}" for ending in ("png", "jpg", "webp", "tiff")] + [tmp_path / "behind.png"]
    for path in paths[:4]:
        stored.save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {"quality": 100}))
    content = paths[0].read_bytes()
    begin = content.index(b"eXIf") - 4
    end = begin + 12 + int.from_bytes(content[begin : begin + 4], "big")
    paths[4].write_bytes(content[:begin] + content[end:-12] + content[begin:end] + content[-12:])
    assert list(png_chunks(paths[4]))[-2:] == [b"eXIf", b"IEND"]
    for path in paths:
        assert image_size(path) == (40, 24), path.name
        for (x, y), colour in CORNERS.items():
            near = (min(max(x, 3), 36), min(max(y, 3), 20))
            assert np.abs(np.subtract(open_image(path).getpixel(near), colour)).max() < 24, path.name


def test_the_size_of_a_picture_is_known_without_its_pixels(tmp_path, monkeypatch):
    upright().save(tmp_path / "a.png")
    upright().save(tmp_path / "a.jpg")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert image_size(tmp_path / "a.png") == image_size(tmp_path / "a.jpg") == (40, 24)


# Damage


@pytest.fixture
def config_of(tmp_path):
    def make(folder: Path, subset: str = "", dataset: str = ""):
        file = tmp_path / "data.toml"
        file.write_text(
            f"{CONCEPT}[[datasets]]\nresolution = 32\n"
            f'{dataset}[[datasets.subsets]]\nimage_dir = "{folder}"\nclass_tokens = "a dog"\n{subset}'
        )
        return read_dataset_config(TomlFile(file), DataSettings(masked_loss=True))

    return make


def test_a_bomb_is_found_before_anything_is_computed(config_of, tmp_path):
    """One that PIL only warns about, and one that it refuses; neither uses the memory that it claims."""
    folder = tmp_path / "dogs"
    folder.mkdir()
    upright().save(folder / "good.png")
    (folder / "large.png").write_bytes(png(12_000, 9_000, 1, 0, b"\0" * 1501 * 9000))
    (folder / "huge.png").write_bytes(png(60_000, 60_000, 8, 2, b"\0"))
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:-60])
    assert (folder / "large.png").stat().st_size < 20_000
    with pytest.raises(DataError) as error:
        find_pictures(config_of(folder), 8)
    said = str(error.value)
    for name in ("large.png", "huge.png"):
        assert f"{name} claims to have more than 89 million pixels" in said
    assert "cut.png is cut off" in said and "good.png" not in said


def phone_picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).resize((320, 240))


def exif_with_a_jpeg() -> bytes:
    """What phones put before the pixels: a small picture with the same end mark as the whole one."""
    small = BytesIO()
    phone_picture().resize((32, 24)).save(small, "JPEG")
    return b"Exif\0\0" + Image.Exif().tobytes() + small.getvalue()


SAVED = {
    "a.jpg": {},
    "thumbnail.jpg": {"exif": exif_with_a_jpeg()},
    "progressive.jpg": {"progressive": True},
    "two.jpg": {"format": "MPO", "save_all": True, "append_images": [phone_picture()]},
    "a.png": {},
    "a.webp": {},
    "a.avif": {},
    "a.bmp": {},
    "a.tif": {},
    "packed.tif": {"compression": "tiff_deflate"},
}
"""How pictures of each kind are written."""


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("lost", [2, 0.01, 0.3, 0.9])
def test_a_picture_that_is_cut_off_is_found_by_its_file_alone(tmp_path, name, lost):
    """Wherever it is cut, as long as PIL can't decode it."""
    path = tmp_path / name
    phone_picture().save(path, **SAVED[name])
    assert image_size(path) == (320, 240)
    whole = path.read_bytes()
    path.write_bytes(whole[: -lost if isinstance(lost, int) else int(len(whole) * (1 - lost))])
    try:
        assert open_image(path).size == image_size(path)
        assert name == "two.jpg" or (name == "a.png" and lost == 2), "what is lost is no part of the first picture"
    except DataError:
        with pytest.raises(DataError, match=r"is cut off|can't be read"):
            image_size(path)


def test_data_after_a_picture_does_not_make_it_cut_off(tmp_path, monkeypatch):
    """Phones put videos and their own data there, more than the part that is read first; nothing has to be decoded."""
    phone_picture().save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + b"film" * 100_000)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert image_size(tmp_path / "a.jpg") == (320, 240)


def test_all_pictures_that_are_cut_off_are_named_at_once(config_of, tmp_path):
    folder = tmp_path / "dogs"
    folder.mkdir()
    for number in range(4):
        phone_picture().save(folder / f"{number}.jpg")
    for number in (1, 3):
        (folder / f"{number}.jpg").write_bytes((folder / f"{number}.jpg").read_bytes()[:-500])
    with pytest.raises(DataError) as error:
        find_pictures(config_of(folder), 8)
    for number in range(4):
        said = f"The image {folder / f'{number}.jpg'} is cut off: its end is missing.\n  Copy or"
        assert (said in str(error.value)) == (number in (1, 3))


class Corner:
    """A model that takes a corner of the picture."""

    def image_fingerprint(self) -> str:
        return "corner"

    def encode_image(self, pixels):
        return pixels[:, :4, :4], torch.zeros(3, 4, 4)


@pytest.fixture
def red(tmp_path):
    folder = tmp_path / "dogs"
    folder.mkdir()
    Image.new("RGB", (32, 32), "red").save(folder / "a.png")
    return folder / "a.png"


@pytest.mark.parametrize("harm", ["deleted", "cut off", "replaced by a text"])
def test_a_picture_damaged_after_planning_is_reported(config_of, red, tmp_path, harm):
    ((picture,),) = find_pictures(config_of(red.parent), 8)
    contents = {"cut off": red.read_bytes()[:60], "replaced by a text": b"no picture"}
    red.unlink()
    if harm in contents:
        red.write_bytes(contents[harm])
    with pytest.raises(DataError, match=r"The image .*a\.png can't be read"):
        Latents(Corner(), Cache(tmp_path / "cache")).prepare([picture])
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_what_is_hashed_is_what_is_encoded_even_if_the_file_changes_at_that_moment(
    config_of, red, tmp_path, monkeypatch
):
    ((picture,),) = find_pictures(config_of(red.parent), 8)
    before = red.read_bytes()
    read = Path.read_bytes

    def changed_at_once(path: Path) -> bytes:
        content = read(path)
        if path == red:
            Image.new("RGB", (32, 32), "blue").save(red)
        return content

    latents = Latents(Corner(), Cache(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", changed_at_once)
        latents.prepare([picture])
    assert latents.mean(picture)[0, 0, 0] == 1, "red, as its name in the cache says"
    red.write_bytes(before)
    again = Latents(Corner(), Cache(tmp_path / "cache"))
    again.prepare([picture])
    assert again.place(picture) == latents.place(picture) and again.mean(picture)[0, 0, 0] == 1


# Masks, and many of them


def test_masks_of_16_bits_and_in_a_cache(config_of, red, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "a.png").write_bytes(png(8, 8, 16, 0, rows_of(b"\x80\x40")))
    config = config_of(red.parent, f'conditioning_data_dir = "{masks}"\n')
    ((picture,),) = find_pictures(config, 8)
    draw = Draw(picture, picture.prompts[0], mirrored=False)
    for _ in range(2):
        latents = Latents(Corner(), Cache(tmp_path / "cache"))
        latents.prepare([picture])
        assert latents.emphasis([draw]).mean() == pytest.approx(128 / 255, abs=1e-3)
    Image.new("L", (8, 8), 255).save(masks / "a.png")
    latents.prepare([picture])
    assert latents.emphasis([draw]).min() == 1, "an edited mask is noticed"
    (masks / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"masks/a\.png can't be read"):
        find_pictures(config, 8)


def test_memory_does_not_grow_with_the_number_of_pictures(config_of, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(60):
        Image.new("RGBA", (32, 32), (index, 0, 0, 255 - index)).save(folder / f"{index:02}.png")
    (pictures,) = find_pictures(config_of(folder, "alpha_mask = true\nflip_aug = true\n"), 8)
    cache = Cache(tmp_path / "cache", most_held=4000)
    latents, everything = (Latents(Corner(), one) for one in (cache, Cache(tmp_path / "cache")))
    generator = torch.Generator().manual_seed(0)
    for one in (latents, everything):
        one.prepare(pictures)
    assert cache.held == 0
    for picture in pictures[::-1]:
        draw = Draw(picture, picture.prompts[0], mirrored=True)
        assert torch.equal(latents.draw(draw, generator), everything.mean(picture)), "these have no spread"
        assert torch.equal(latents.emphasis([draw]), everything.emphasis([draw]))
        assert 0 < cache.held <= 4000 < everything.cache.most_held
