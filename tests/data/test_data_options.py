"""Each data option, with the caches: every variant is known before training and encoded once."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from library.config.dataset_file import read_dataset_config
from library.config.files import TomlFile
from library.config.settings import DataSettings
from library.data.images import fit
from library.data.latents import Latents
from library.data.pictures import Draw, PictureOrder, find_pictures, split_validation
from library.errors import ConfigError, DataError
from library.files.cache import Cache
from library.prompts import NULL_PROMPT
from tests.helpers.datasets import CONCEPT


@pytest.fixture
def photos(tmp_path):
    """Ten pictures with captions; the right half of each is white, the left half has fine stripes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(10):
        pixels = np.zeros((40, 80, 3), np.uint8)
        pixels[:, 40:] = 255
        pixels[:, :40:3] = 200 + index
        Image.fromarray(pixels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a [V] dog, tag {index}, other")
    return folder


@pytest.fixture
def pictures_of(photos, tmp_path):
    """The pictures of each dataset with these options."""

    def make(subset: str = "", dataset: str = "resolution = 32\nbatch_size = 2\n", more: str = "", **settings):
        file = tmp_path / "data.toml"
        text = f'{CONCEPT}[[datasets]]\n{dataset}[[datasets.subsets]]\nimage_dir = "{photos}"\n{subset}\n{more}'
        file.write_text(text)
        config = read_dataset_config(TomlFile(file), DataSettings(**settings))
        return config, find_pictures(config, 8)

    return make


class Thumbnails:
    """Encodes a picture as itself, and counts."""

    def __init__(self) -> None:
        self.encoded = 0

    def image_fingerprint(self) -> str:
        return "thumbnails"

    def encode_image(self, pixels):
        self.encoded += 1
        return pixels, torch.zeros_like(pixels)


def prepared(pictures, folder) -> Latents:
    latents = Latents(Thumbnails(), Cache(folder))
    latents.prepare(pictures)
    return latents


def seen(latents: Latents, picture, mirrored: bool = False, crop: int = 0) -> torch.Tensor:
    return latents.draw(Draw(picture, picture.prompts[0], mirrored, crop), torch.Generator())


def draws_of(datasets, epochs: int, batch_size: int = 2, seed: int = 0) -> list[list[Draw]]:
    """The draws of each epoch."""
    order = PictureOrder(datasets, [batch_size] * len(datasets), seed)
    each = order.batches_per_epoch
    return [[draw for number in range(e * each, (e + 1) * each) for draw in order.batch(number)] for e in range(epochs)]


# Pictures


def test_mirrored_pictures_and_crops_are_encoded_once_and_are_what_they_say(pictures_of, tmp_path):
    _, (pictures,) = pictures_of("flip_aug = true\nrandom_crop = true\n")
    first, again = (prepared(pictures, tmp_path / "cache") for _ in range(2))
    assert (first.model.encoded, again.model.encoded) == (10 * 2 * 4, 0)
    picture = pictures[0]
    with Image.open(picture.path) as image:
        expected = [fit(image.convert("RGB"), (32, 32), centering=place) for place in picture.crops]
    for crop in range(4):
        assert torch.equal(seen(again, picture, crop=crop), expected[crop])
        assert torch.equal(seen(again, picture, mirrored=True, crop=crop), expected[crop].flip(-1))
    assert len({tuple(one.flatten().tolist()) for one in expected}) == 4


def test_flipping_is_off_by_default_and_half_of_the_draws_where_it_is_on(pictures_of):
    _, datasets = pictures_of()
    assert not any(draw.mirrored for epoch in draws_of(datasets, 5) for draw in epoch)
    _, datasets = pictures_of("flip_aug = true\n")
    share = np.mean([draw.mirrored for epoch in draws_of(datasets, 40) for draw in epoch])
    assert share == pytest.approx(0.5, abs=0.08)


def test_each_way_to_scale_has_its_own_latents(pictures_of, tmp_path):
    found = {}
    for way in ("lanczos", "nearest", "area"):
        _, (pictures,) = pictures_of(f'resize_interpolation = "{way}"\n')
        found[way] = seen(prepared(pictures[:1], tmp_path / "cache"), pictures[0])
    assert len(found["nearest"].unique()) <= 3 < len(found["area"].unique())
    assert not torch.equal(found["lanczos"], found["area"])


def test_one_folder_at_several_resolutions(pictures_of, photos, tmp_path):
    more = f'[[datasets]]\nresolution = 16\nbatch_size = 2\n[[datasets.subsets]]\nimage_dir = "{photos}"\n'
    _, datasets = pictures_of(more=more)
    latents = prepared([picture for some in datasets for picture in some], tmp_path / "cache")
    assert [seen(latents, some[0]).shape[1:] for some in datasets] == [(32, 32), (16, 16)]
    (epoch,) = draws_of(datasets, 1)
    assert Counter(draw.picture.size for draw in epoch) == {(32, 32): 10, (16, 16): 10}


def test_buckets_keep_the_shape_in_the_cache_as_well(pictures_of, tmp_path):
    buckets = "resolution = 32\nbatch_size = 2\nenable_bucket = true\nmin_bucket_reso = 16\nbucket_reso_steps = 8\n"
    _, (pictures,) = pictures_of(dataset=buckets)
    assert {picture.size for picture in pictures} == {(40, 24)}
    assert seen(prepared(pictures, tmp_path / "cache"), pictures[0]).shape == (3, 24, 40)


def test_zero_repeats_leave_a_subset_out(pictures_of, photos):
    other = f'[[datasets.subsets]]\nimage_dir = "{photos}"\nnum_repeats = 0\nclass_tokens = "a dog"\n'
    config, (pictures,) = pictures_of(more=other)
    assert len(pictures) == 10 and len(config.datasets[0].subsets) == 1
    with pytest.raises((ConfigError, DataError)):
        pictures_of("num_repeats = 0\n")


def test_which_pictures_validate_follows_from_the_validation_seed_alone(pictures_of):
    def kept(seed: int, dataset: str) -> set[str]:
        config, datasets = pictures_of(dataset=f"resolution = 32\nvalidation_split = 0.3\n{dataset}")
        training, out = split_validation(config, datasets, seed)
        assert len(out) == 3 and len(training[0]) == 7
        names = {picture.path.name for picture in out}
        assert names.isdisjoint(picture.path.name for picture in training[0])
        return names

    assert kept(1, "validation_seed = 5\n") == kept(2, "validation_seed = 5\n")
    assert len({frozenset(kept(seed, "")) for seed in range(5)}) > 1


# Captions


def test_an_own_ending_and_lines_before_and_after_a_caption(pictures_of, photos):
    for index in range(10):
        (photos / f"{index}.cap").write_text("a [V] dog")
    subset = 'caption_extension = "cap"\ncaption_prefix = "photo of"\ncaption_suffix = ", by day"\n'
    _, (pictures,) = pictures_of(subset)
    assert {picture.prompts[0].base for picture in pictures} == {"photo of a dog, by day"}


def test_captions_are_dropped_as_often_as_asked_and_all_three_texts_with_them(pictures_of):
    _, datasets = pictures_of("caption_dropout_rate = 0.3\n")
    draws = [draw for epoch in draws_of(datasets, 60) for draw in epoch]
    dropped = [draw.prompts for draw in draws if draw.prompts.complete == NULL_PROMPT]
    assert len(dropped) / len(draws) == pytest.approx(0.3, abs=0.06)
    assert {(one.complete, one.base, one.target) for one in dropped} == {("", "", "sks dog")}


def test_every_n_epochs_all_captions_are_dropped(pictures_of):
    _, datasets = pictures_of("caption_dropout_every_n_epochs = 3\n")
    empty = [{draw.prompts.complete == NULL_PROMPT for draw in epoch} for epoch in draws_of(datasets, 6)]
    assert empty == [{False}, {False}, {True}, {False}, {False}, {True}]


def test_an_epoch_draws_one_of_a_captions_variants(pictures_of):
    _, datasets = pictures_of("shuffle_caption = true\n")
    drawn = {draw.prompts for epoch in draws_of(datasets, 30) for draw in epoch}
    every = {triple for picture in datasets[0] for triple in picture.prompts}
    assert drawn == every and len(every) > 10, "all of them were encoded, and no other comes by"


def test_tags_before_and_after_the_separator_stay_and_those_between_move(prompts):
    caption = "a dog, head ||| one, two, three ||| tail, end"
    variants = [
        triple.base.split(", ") for triple in prompts(caption, shuffle_caption=True, keep_tokens_separator="|||")
    ]
    assert all(tags[:2] == ["a dog", "head"] and tags[-2:] == ["tail", "end"] for tags in variants)
    assert len({tuple(tags[2:5]) for tags in variants}) > 1
    assert all(sorted(tags[2:5]) == ["one", "three", "two"] for tags in variants)


def test_tags_that_belong_together_move_and_are_dropped_together(prompts):
    ways = {"shuffle_caption": True, "secondary_separator": ";;;", "caption_tag_dropout_rate": 0.4}
    texts = [triple.base for triple in prompts("a dog, red;;;ball, day, city, house", count=60, **ways)]
    assert all(("red, ball" in text) == ("red" in text) == ("ball" in text) for text in texts)
    share = np.mean([word in text for text in texts for word in ("ball", "day", "city", "house")])
    assert share == pytest.approx(0.6, abs=0.12)
    assert len({"red" in text for text in texts}) == 2


def test_another_separator_tells_tags_apart(prompts):
    variants = [triple.base for triple in prompts("a dog; by a, b; day", shuffle_caption=True, caption_separator=";")]
    assert all("by a, b" in text for text in variants) and len(set(variants)) > 1


def test_as_many_variants_as_asked_are_made(prompts):
    assert len(prompts("a dog, b, c, d, e", count=5, shuffle_caption=True)) == 5
