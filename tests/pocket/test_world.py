"""Laws of the pocket world: how its pictures, captions and masks agree."""

import random
from dataclasses import replace

import numpy as np
import pytest

from tools.pocket.captions import EMPTY, TRIGGERS, caption, full_caption, training_caption, vocabulary
from tools.pocket.concepts import SUBJECT, style_scenes, subject_scenes
from tools.pocket.creature import EARS, MARKINGS, TAILS
from tools.pocket.pen import OBJECT, REGIONS, SIDE, WORLD
from tools.pocket.pictures import scene_at
from tools.pocket.styles import ALL_STYLES, STYLES, UNSEEN_STYLE
from tools.pocket.world import ATTRIBUTES, OBJECTS, PLACES, draw, is_held_out, random_scene


def scenes(count: int, seed: int = 0) -> list:
    """Scenes of the training world."""
    rng = random.Random(seed)
    return [random_scene(rng) for _ in range(count)]


def test_the_same_scene_is_the_same_picture():
    for scene in scenes(20):
        once, again = draw(scene), draw(replace(scene))
        assert np.array_equal(once.picture, again.picture)
        assert np.array_equal(once.regions, again.regions)
        assert once.caption == again.caption


def test_the_same_seed_is_the_same_row_of_scenes():
    assert scenes(50, seed=3) == scenes(50, seed=3) != scenes(50, seed=4)
    assert scene_at(5, 17) == scene_at(5, 17)


def test_another_seed_of_a_scene_is_another_picture_of_the_same_attributes():
    scene = scenes(1)[0]
    one, other = draw(scene), draw(replace(scene, seed=scene.seed + 1))
    assert not np.array_equal(one.picture, other.picture)
    assert one.attributes == other.attributes


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("style", ALL_STYLES)
def test_everything_can_be_drawn_in_every_style(name, style):
    base = SUBJECT if name == "creature" else replace(SUBJECT, object=name, creature=None)
    drawing = draw(replace(base, style=style))
    assert drawing.picture.shape == (SIDE, SIDE, 3) and drawing.picture.dtype == np.uint8
    assert drawing.regions.max() < len(REGIONS)
    assert 0.05 < drawing.mask.mean() < 0.5


def test_a_larger_picture_shows_the_same_and_more_of_it():
    for scene in scenes(12):
        small, large = draw(scene, WORLD), draw(scene, 2 * WORLD)
        assert large.picture.shape == (2 * WORLD, 2 * WORLD, 3)
        assert large.caption == small.caption
        shrunk = large.picture.reshape(WORLD, 2, WORLD, 2, 3).mean((1, 3))
        assert np.abs(shrunk - small.picture).mean() < 6
        assert (large.mask[::2, ::2] == small.mask).mean() > 0.97


def test_a_face_has_a_mouth_where_there_is_room_for_one(monkeypatch):
    from tools.pocket import pen

    large = draw(SUBJECT, 2 * WORLD).picture
    monkeypatch.setattr(pen, "DETAILED", 3)
    assert not np.array_equal(large, draw(SUBJECT, 2 * WORLD).picture)


def test_the_full_caption_says_every_attribute():
    for scene in scenes(100):
        words = full_caption(scene).split()
        assert all(word in words for word in draw(scene, WORLD).attributes.values())


def test_a_caption_says_what_it_was_told_to_and_nothing_else():
    scene = replace(scenes(1)[0], object="car", colour="red", background="beach", time="night", creature=None)
    assert caption(scene, set()) == "a car"
    assert caption(scene, {"colour", "background"}) == "a red car on the beach"
    assert caption(scene, {"time"}, trigger="sks") == "a sks car at night"
    assert caption(replace(scene, object="umbrella"), set()) == "an umbrella"
    assert caption(replace(scene, colour="orange"), {"colour"}) == "an orange car"


def test_a_caption_of_training_never_says_what_is_not_so():
    rng = random.Random(1)
    words = {word: name for name, options in ATTRIBUTES.items() for word in options}
    for scene in scenes(300):
        for word in training_caption(scene, rng).split():
            assert word not in words or getattr(scene, words[word]) == word


def test_a_tenth_of_the_training_captions_is_empty_and_none_holds_a_trigger():
    rng = random.Random(2)
    captions = [training_caption(scene, rng) for scene in scenes(3000)]
    assert abs(captions.count("") / 3000 - EMPTY) < 0.02
    assert not {word for text in captions for word in text.split()} & set(TRIGGERS)
    assert set(TRIGGERS) <= set(vocabulary())


def test_no_caption_names_what_only_a_creature_shows():
    rng = random.Random(3)
    said = {word for scene in scenes(500) for word in training_caption(scene, rng).split()}
    assert not said & {*EARS, *MARKINGS, *TAILS, "socks"}


def test_the_mask_is_where_the_object_is():
    for scene in scenes(40):
        mask = draw(scene, WORLD).mask
        columns = np.flatnonzero(mask.any(0))
        assert abs(columns.mean() - PLACES[scene.place]) < 7
        assert mask[:20].mean() < mask[40:].mean()


def test_another_colour_changes_the_picture_in_the_mask_alone():
    for scene in scenes(20):
        # Ink has no shadow next to the object, and its colours don't bleed.
        scene = replace(scene, style="ink", object="robot", creature=None, colour="red")
        one, other = draw(scene), draw(replace(scene, colour="green"))
        changed = (one.picture != other.picture).any(-1)
        edge = one.mask.copy()
        for axis in (0, 1):
            edge |= np.roll(edge, 1, axis) | np.roll(edge, -1, axis)
        assert np.array_equal(one.regions, other.regions)
        assert not (changed & ~edge).any()
        assert changed[one.mask].mean() > 0.2


def test_the_regions_add_up_to_the_mask():
    drawing = draw(scenes(1)[0])
    assert np.array_equal(drawing.mask, drawing.regions == OBJECT)


def test_the_unseen_style_is_never_seen_in_training():
    assert UNSEEN_STYLE not in STYLES
    assert all(scene.style != UNSEEN_STYLE for scene in scenes(2000))
    assert UNSEEN_STYLE not in vocabulary()


def test_what_is_held_out_is_never_seen_in_training():
    assert not any(map(is_held_out, scenes(2000)))
    rng = random.Random(0)
    assert all(is_held_out(random_scene(rng, held_out=True)) for _ in range(20))


def test_a_subject_is_one_creature_in_one_place():
    pairs = subject_scenes()
    assert all(scene.attributes() == SUBJECT.attributes() and scene.creature == SUBJECT.creature for scene, _ in pairs)
    assert len({draw(scene).picture.tobytes() for scene, _ in pairs}) == len(pairs)
    assert all(said == "a [V] creature in the city" for _, said in pairs)


def test_pictures_of_the_style_say_it_once():
    for scene, said in style_scenes():
        assert scene.style == UNSEEN_STYLE
        assert said.endswith(" in [V] style") and said.count("[V]") == 1


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    from transformers import AutoTokenizer

    from tools.pocket.tokenizers import END, clip_tokenizer, t5_tokenizer

    folder = tmp_path_factory.mktemp("tokenizers")
    reloaded = []
    for k, tokenizer in enumerate((clip_tokenizer(END), clip_tokenizer("!"), t5_tokenizer())):
        tokenizer.save_pretrained(folder / str(k))
        reloaded.append(AutoTokenizer.from_pretrained(folder / str(k)))
    return reloaded


def test_every_word_is_one_token_and_every_caption_fits(tokenizers):
    from tools.pocket.tokenizers import LENGTH

    rng = random.Random(4)
    texts = [training_caption(scene, rng) for scene in scenes(500)] + [" ".join(vocabulary()[:13])]
    for tokenizer, marks in zip(tokenizers, (2, 2, 1), strict=True):
        for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True):
            assert len(ids) == len(text.split()) + marks <= LENGTH


def test_no_letter_is_unknown(tokenizers):
    ids = tokenizers[2]("an unheard-of zebra, 3 of them!").input_ids
    assert tokenizers[2].unk_token_id not in ids


def test_they_pad_as_sd3_does(tokenizers):
    assert [tokenizer.pad_token for tokenizer in tokenizers] == ["<|endoftext|>", "!", "<pad>"]
    ids = tokenizers[1]("a car", padding="max_length").input_ids
    assert tokenizers[1].convert_ids_to_tokens(ids[-1:]) == ["!"]


def test_they_are_the_same_every_time(tokenizers):
    from tools.pocket.tokenizers import END, clip_tokenizer

    assert clip_tokenizer(END).get_vocab() == tokenizers[0].get_vocab()
