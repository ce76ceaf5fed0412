"""Pictures, captions, caches and the order of batches."""

import numpy as np
import pytest
import torch
from PIL import Image

from library.config.dataset_file import read_dataset_config
from library.config.files import TomlFile
from library.config.settings import DataSettings
from library.data.captions import captions_of
from library.data.folder import find_images
from library.data.images import Buckets, fit, image_size, open_image
from library.data.latents import Latents
from library.data.pictures import PictureOrder, find_pictures
from library.errors import ConfigError, DataError
from library.files.cache import Cache
from tests.helpers.datasets import CONCEPT


@pytest.fixture
def config_of(tmp_path):
    def make(dataset: str = "", subset: str = "", folder: str = "photos"):
        file = tmp_path / "data.toml"
        text = f'{CONCEPT}[[datasets]]\n{dataset}\n[[datasets.subsets]]\nimage_dir = "{tmp_path / folder}"\n{subset}\n'
        file.write_text(text)
        return read_dataset_config(TomlFile(file), DataSettings())

    return make


@pytest.fixture
def photos(tmp_path):
    """Pictures of many shapes, one rotated by EXIF, one transparent, one grey."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in {"wide": (300, 150), "tall": (100, 220), "square": (80, 80)}.items():
        Image.new("RGB", size, "red").save(folder / f"{name}.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 100), "blue").save(folder / "turned.jpg", exif=exif)
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(folder / "clear.png")
    Image.new("L", (64, 64), 128).save(folder / "grey.webp")
    (folder / "notes.md").write_text("not a picture")
    return folder


def test_pictures_are_seen_as_a_person_sees_them(photos):
    assert [path.name for path in find_images(str(photos))] == [
        "clear.png",
        "grey.webp",
        "square.jpg",
        "tall.jpg",
        "turned.jpg",
        "wide.jpg",
    ]
    assert image_size(photos / "turned.jpg") == open_image(photos / "turned.jpg").size == (100, 200)
    assert open_image(photos / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    assert open_image(photos / "grey.webp").mode == "RGB"


def test_a_picture_covers_its_bucket_and_is_mirrored(tmp_path):
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = 255
    image = Image.fromarray(pixels)
    plain, mirrored = fit(image, (80, 40)), fit(image, (80, 40), mirrored=True)
    assert plain.shape == (3, 40, 80) and plain.min() == -1 and plain.max() == 1
    assert torch.equal(mirrored, plain.flip(-1)) and plain[0, 0, 0] == 1
    square = fit(image, (40, 40))
    assert square[0, 20, 2] == 1 and square[0, 20, 37] == -1, "it is cut evenly, not squeezed to one side"


def test_buckets_keep_shape_and_area(config_of):
    config = config_of("resolution = 512\nenable_bucket = true\nmin_bucket_reso = 256\nmax_bucket_reso = 1024")
    buckets = Buckets(config.datasets[0], 16)
    for width, height in ((1000, 1000), (3000, 2000), (1200, 1600), (4000, 1000)):
        bucket = buckets.size_for(width, height)
        assert bucket[0] % 64 == 0 and bucket[1] % 64 == 0
        assert bucket[0] * bucket[1] <= 512 * 512
        assert bucket[0] / bucket[1] == pytest.approx(width / height, rel=0.16)
        assert buckets.size_for(height, width) == bucket[::-1]
    assert buckets.size_for(1000, 1000) == (512, 512)
    assert buckets.size_for(40000, 1000) == (1024, 256)


def test_small_pictures_are_not_enlarged_if_asked(config_of):
    config = config_of("resolution = 512\nenable_bucket = true\nbucket_no_upscale = true")
    buckets = Buckets(config.datasets[0], 16)
    assert buckets.size_for(200, 140) == (192, 128)
    width, height = buckets.size_for(2000, 1000)
    assert width * height <= 512 * 512 and (width, height) == (704, 320)


def test_without_buckets_all_pictures_have_one_size(config_of, photos):
    config = config_of("resolution = [64, 32]", 'class_tokens = "a dog"')
    (pictures,) = find_pictures(config, 8)
    assert {picture.size for picture in pictures} == {(64, 32)} and len(pictures) == 6


def test_a_resolution_that_the_model_cannot_have_names_the_nearest(config_of):
    with pytest.raises(ConfigError, match="multiples of 16") as error:
        Buckets(config_of("resolution = [500, 512]").datasets[0], 16)
    assert "496 x 512" in error.value.remedy
    with pytest.raises(ConfigError, match="bucket_reso_steps is 40"):
        Buckets(config_of("resolution = 512\nenable_bucket = true\nbucket_reso_steps = 40").datasets[0], 16)


def test_captions_come_from_file_then_templates_then_class_tokens(config_of, photos):
    (photos / "wide.txt").write_text("a [V] dog, wide\nsecond line\n")
    subset = config_of(subset='class_tokens = "a dog"\ncaption_prefix = "photo of"').datasets[0].subsets[0]
    assert captions_of(photos / "wide.jpg", subset)[0] == ["photo of a [V] dog, wide"]
    assert captions_of(photos / "tall.jpg", subset) == (["photo of a dog"], "class_tokens")
    templates = config_of(subset='caption_templates = ["one [V] dog", "a [V] dog"]').datasets[0].subsets[0]
    assert captions_of(photos / "tall.jpg", templates)[0] == ["one [V] dog", "a [V] dog"]
    with pytest.raises(DataError, match=r"tall\.jpg has no caption: there is no tall\.txt"):
        captions_of(photos / "tall.jpg", config_of().datasets[0].subsets[0])


def test_what_is_wrong_with_pictures_is_reported(config_of, photos, tmp_path):
    with pytest.raises(DataError, match="image_dir: the folder") as error:
        find_pictures(config_of(folder="photo"), 8)
    assert "photos" in error.value.remedy
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="contains no images"):
        find_pictures(config_of(folder="empty"), 8)
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    with pytest.raises(DataError, match=r"The image .*broken\.png can't be read"):
        find_pictures(config_of("resolution = 32", 'class_tokens = "a dog"'), 8)
    whole = (photos / "wide.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.jpg can't be read"):
        open_image(photos / "cut.jpg")


def test_a_huge_picture_is_refused_before_it_is_decoded(photos, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for find in (image_size, open_image):
        with pytest.raises(DataError, match=r"wide\.jpg claims to have more than"):
            find(photos / "wide.jpg")


class CountingModel:
    """Encodes by taking a corner of the picture, and counts."""

    def __init__(self) -> None:
        self.encoded = 0

    def image_fingerprint(self) -> str:
        return "counting"

    def encode_image(self, pixels):
        self.encoded += 1
        return pixels[:, :4, :4], torch.full((3, 4, 4), 0.5)


def test_latents_are_encoded_once_by_content(config_of, photos, tmp_path):
    config = config_of("resolution = 32", 'class_tokens = "a dog"\nflip_aug = true')
    (pictures,) = find_pictures(config, 8)
    for encoded in (12, 0):
        model = CountingModel()
        Latents(model, Cache(tmp_path / "cache")).prepare(pictures)
        assert model.encoded == encoded
    Image.new("RGB", (80, 80), "green").save(photos / "square.jpg")  # edited: same name, size and place
    model = CountingModel()
    Latents(model, Cache(tmp_path / "cache")).prepare(pictures)
    assert model.encoded == 2


def cut_off(content: bytes) -> bytes:
    return content[:20]


def one_bit(content: bytes) -> bytes:
    """A file with the right length and header but wrong content, as from a bad disk."""
    return content[:-1] + bytes([content[-1] ^ 1])


def lying_header(content: bytes) -> bytes:
    return (1 << 62).to_bytes(8, "little") + content[8:]


def other_shape(content: bytes) -> bytes:
    return content.replace(b'"shape":[3]', b'"shape":[1]')


def other_type(content: bytes) -> bytes:
    return content.replace(b'"F32"', b'"I32"')


def nothing(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut_off, one_bit, lying_header, other_shape, other_type, nothing])
def test_a_damaged_cache_file_is_made_again(tmp_path, damage):
    cache, made = Cache(tmp_path), []

    def compute():
        made.append(1)
        return {"x": torch.ones(3)}

    cache.get("kind", {"a": 1}, compute)
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert file.read_bytes() != whole
    assert torch.equal(cache.get("kind", {"a": 1}, compute)["x"], torch.ones(3))
    cache.get("kind", {"a": 1}, compute)
    assert len(made) == 2
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()], "no temporary file is left"


def order_of(config, seed: int = 0) -> PictureOrder:
    return PictureOrder(find_pictures(config, 8), [dataset.batch_size for dataset in config.datasets], seed)


def test_an_epoch_shows_every_picture_as_often_as_asked(config_of, photos):
    order = order_of(config_of("resolution = 32\nbatch_size = 4", 'class_tokens = "a dog"\nnum_repeats = 3'))
    for epoch in (0, 1):
        batches = [order.batch(epoch * order.batches_per_epoch + index) for index in range(order.batches_per_epoch)]
        names = [draw.picture.path.name for batch in batches for draw in batch]
        assert {name: names.count(name) for name in names} == dict.fromkeys(names, 3) and len(names) == 18
        assert max(len(batch) for batch in batches) == 4


def test_a_batch_has_one_size_and_the_order_follows_from_seed_and_number(config_of, photos):
    text = "resolution = 64\nenable_bucket = true\nmin_bucket_reso = 32\nbucket_reso_steps = 16\nbatch_size = 2"
    config = config_of(text, 'class_tokens = "a dog"\nnum_repeats = 2')
    one, two, other = order_of(config), order_of(config), order_of(config, seed=1)
    two.batch(40)  # jumping about makes no difference
    for number in range(12):
        assert one.batch(number) == two.batch(number)
        assert len({draw.picture.size for draw in one.batch(number)}) == 1
    assert [one.batch(n) for n in range(12)] != [other.batch(n) for n in range(12)]
