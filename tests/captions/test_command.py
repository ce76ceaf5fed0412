"""purecc_caption.py with recorded answers: what it writes, what it never writes, and what a review finds."""

import json

import pytest
from PIL import Image

from library.captions import command
from library.captions.facts import AGAIN
from library.captions.record import RECORD, Record
from library.errors import ConfigError

LOOKS = json.dumps({"looks": ["brown fur", "red bib"]})


def answer(n: int, **more) -> str:
    said = {"medium": "photo", "state": "sitting", "place": f"on a chair in room {n}", "others": ["a lamp"]}
    return json.dumps({**said, "light": f"light {n}", **more})


class Recorded:
    """Returns answers in order; a question about several pictures is about the looks."""

    name = "recorded"

    def __init__(self, *answers: str) -> None:
        self.answers, self.questions = list(answers), []

    def answer(self, images, question):
        self.questions.append(question)
        return LOOKS if len(images) > 1 else self.answers.pop(0)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "dog"
    folder.mkdir()
    for n in range(3):
        Image.new("RGB", (64, 48), (80 * n, 0, 0)).save(folder / f"{n}.png")
    return folder


@pytest.fixture
def caption(folder, monkeypatch):
    """Runs the command on the folder; without answers, opening a model is an error."""

    def run(*answers: str, words=(), kind=("--trigger", "sks", "--class_word", "dog")):
        viewer = Recorded(*answers)

        def opened(model):
            assert answers, "no model was to be opened"
            return viewer

        monkeypatch.setattr(command, "open_viewer", opened)
        return command.run([str(folder), *kind, *words]), viewer

    return run


def texts(folder) -> dict[str, str]:
    return {file.stem: file.read_text() for file in sorted(folder.glob("*.txt"))}


def test_captions_are_written_and_need_no_model_the_second_time(folder, caption):
    said, viewer = caption(answer(0), answer(1), answer(2))
    first = texts(folder)
    assert first["1"] == "a photo of a [V] dog sitting on a chair in room 1, a lamp, light 1"
    assert len(viewer.questions) == 4 and f"1.txt: {first['1']}" in said
    caption()
    assert texts(folder) == first


def test_another_class_word_or_picture_is_looked_at_again(folder, caption):
    caption(answer(0), answer(1), answer(2))
    Image.new("RGB", (64, 48), "blue").save(folder / "1.png")
    _, viewer = caption(answer(7))
    assert "room 7" in texts(folder)["1"] and len(viewer.questions) == 1
    caption(*map(answer, range(3)), kind=("--trigger", "sks", "--class_word", "corgi"))
    assert all("[V] corgi" in text for text in texts(folder).values())


def test_what_a_person_wrote_stays_to_the_letter(folder, caption):
    (folder / "0.txt").write_text("my own [V] dog\n")
    (folder / "1.txt").write_text(" \n")
    said, _ = caption(answer(0), answer(1), answer(2))
    assert texts(folder)["0"] == "my own [V] dog\n" and "room 1" in texts(folder)["1"]
    assert ": 0.txt" in said
    (folder / "1.txt").write_text(texts(folder)["1"] + "!")
    said, _ = caption(*map(answer, (5, 6, 7)), kind=("--trigger", "ohwx", "--class_word", "cat"))
    assert texts(folder)["1"].endswith("light 1!") and "[V] cat" in texts(folder)["2"]
    assert "0.txt, 1.txt" in said


def test_if_every_caption_is_a_persons_no_model_is_opened(folder, caption):
    for n in range(3):
        (folder / f"{n}.txt").write_text(f"a [V] dog, {n}")
    caption()
    assert set(texts(folder).values()) == {"a [V] dog, 0", "a [V] dog, 1", "a [V] dog, 2"}
    assert not (folder / RECORD).exists()


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"texts": {"0.txt": 3}, "facts": [], "looks": {"looks": {}}}', "[" * 9999]
)
def test_with_a_damaged_record_every_text_counts_as_a_persons(folder, caption, damage):
    caption(answer(0), answer(1), answer(2))
    before = texts(folder)
    (folder / RECORD).write_text(damage)
    caption(kind=("--trigger", "ohwx", "--class_word", "cat"))
    assert texts(folder) == before


def test_a_kill_between_record_and_text_leaves_no_text_unknown(folder, monkeypatch):
    record, file = Record(folder), folder / "0.txt"
    record.write(file, "first")
    monkeypatch.setattr("library.captions.record.write_text", lambda path, text: path == file or path.write_text(text))
    record.write(file, "second")
    assert file.read_text() == "first" and Record(folder).is_ours(file)


def test_a_broken_answer_is_asked_for_again_then_reported_and_nothing_is_made_up(folder, caption):
    said, viewer = caption("I see a dog.", answer(0), "Sorry.", "No.", answer(2))
    assert sorted(texts(folder)) == ["0", "2"]
    assert sum(question.endswith(AGAIN) for question in viewer.questions) == 2
    assert "1.png: the model's answer can't be used: it contains no JSON object." in said
    assert "1 images have no caption: 1.png" in said


def test_a_caption_ends_where_the_encoders_stop_reading_and_says_what_is_not_named(folder, caption):
    words = ("one", "two", "three", "four", "five", "six")
    many = [f"a lamp with the number {word} on a shelf above the wooden floor" for word in words]
    long = answer(0, others=many, light="light of many very small lamps all over the place", style="grainy")
    said, _ = caption(long, answer(1), answer(2))
    assert "too long: grainy, light of many" in said
    assert "more tokens than an encoder reads" not in said
    (folder / "0.txt").write_text("a [V] dog " + "and another thing " * 30)
    said, _ = caption(words=["--review"])
    assert "1 captions have more tokens than an encoder reads: 0.png (" in said and " of 77)" in said


def test_a_style_is_captioned_by_its_content(folder, caption):
    seen = [json.dumps({"content": f"a house {n}", "place": "by the sea"}) for n in range(3)]
    _, viewer = caption(*seen, kind=("--trigger", "ohwx", "--kind", "style"))
    assert texts(folder)["2"] == "a house 2 by the sea, in [V] style"
    assert len(viewer.questions) == 3 and "Never say how" in viewer.questions[0]


REVIEWED = {
    "concept twice": (["a [V] dog and a sks dog", "a [V] dog in a park"], "name the concept more than once: 0.png"),
    "concept missing": (["a dog at home", "a [V] dog in a park"], "neither [V] nor the trigger: 0.png"),
    "class word missing": (["[V] at home", "a [V] dog in a park"], 'lack the class word "dog": 0.png'),
    "class word twice": (["a [V] dog and a dog", "a [V] dog"], 'the class word "dog" more than once: 0.png'),
    "described": (["a brown [V] dog at home", "a [V] dog in a park"], '"brown" in 0.png'),
    "alike": (["a [V] dog in a park", "a [V] dog in a  park"], "2 images have the same caption: 0.png, 1.png"),
    "neither": (["a cat", "a [V] dog"], 'neither [V] nor the class word "dog"'),
    "said by all": (["a [V] dog here, fog", "a [V] dog there, fog", "a [V] dog, fog"], 'contains "fog"'),
}


@pytest.mark.parametrize(("captions", "found"), REVIEWED.values(), ids=REVIEWED)
def test_a_review_without_a_model_finds(folder, caption, captions, found):
    for n, text in enumerate(captions):
        (folder / f"{n}.txt").write_text(text)
    said, _ = caption(words=["--review"])
    assert found in said
    assert list(texts(folder).values()) == captions and not (folder / RECORD).exists()


def test_a_review_of_good_captions_finds_nothing(folder, caption):
    for n, text in enumerate(("a [V] dog on the beach", "a [V] dog in a park", "a [V] dog at night")):
        (folder / f"{n}.txt").write_text(text)
    assert "No problems found." in caption(words=["--review"])[0]


def test_what_was_seen_tells_a_review_what_no_caption_names_and_what_is_the_subjects_own(folder, caption):
    for n, text in enumerate(("a [V] dog with its bib", "a [V] dog in a room", "a [V] dog near a chair")):
        (folder / f"{n}.txt").write_text(text)
    (folder / "1.txt").unlink()
    caption(answer(0), answer(1), answer(2))
    (folder / "1.txt").write_text("a [V] dog in a room on a chair, with light")
    said, _ = caption(words=["--review"])
    assert 'All images show "lamp", "sitting"' in said
    assert '1 captions name "bib", and "red bib" seems to belong to the concept: 0.png' in said


def test_a_dataset_file_names_concepts_and_endings(folder, tmp_path, caption, monkeypatch):
    file = tmp_path / "data.toml"
    file.write_text(
        '[[concepts]]\nname = "rex"\ntrigger = "sks"\nclass_word = "dog"\n[[datasets]]\n'
        f"[[datasets.subsets]]\nimage_dir = '{folder}'\ncaption_extension = \".cap\"\n"
    )
    monkeypatch.setattr(command, "open_viewer", lambda model: Recorded(answer(0), answer(1), answer(2)))
    assert command.run(["--dataset_config", str(file)]).startswith("rex: 3 images")
    assert "room 1" in (folder / "1.cap").read_text()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "--dataset_config"),
        (["a", "--dataset_config", "b.toml"], "--dataset_config"),
        (["a"], "--trigger is missing"),
        (["a", "--trigger", "sks"], "class_word is missing"),
        (["--dataset_config", "b.toml", "--trigger", "sks"], "--dataset_config, trigger and class_word"),
    ],
)
def test_mistakes_on_the_command_line_get_a_sentence(words, what):
    with pytest.raises(ConfigError, match=what):
        command.run(words)
