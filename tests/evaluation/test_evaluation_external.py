"""Pictures made in other programs: exports lists, imports pictures, and reports everything wrong with a folder."""

import json

import pytest
from PIL import Image

from library.config.dataset import Concept
from library.errors import ConfigError, DataError
from library.evaluation import external_import, prompt_export
from library.evaluation.external import file_name, read_arm, read_csv, read_prompts_csv
from library.evaluation.options import named_folders, seeds_of
from library.evaluation.prompts import read_lists

DOG = Concept(name="rex", trigger="ohwx", class_word="dog")
SEEDS = [0, 1]


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "three.txt").write_text("a [V] dog in a park\na [V] dog on a sofa\na red [V] dog --changes_subject\n")
    return read_lists(DOG, [str(tmp_path / "three.txt")], [])


@pytest.fixture
def arm(tmp_path, prompts):
    """A folder without errors."""
    folder = tmp_path / "arm"
    words = ["--class_word", "dog", "--prompts", str(tmp_path / "three.txt"), "--preservation", "none"]
    prompt_export.run([*words, "--seeds", "0-1", "--out", str(folder)])
    for prompt in prompts:
        for seed in SEEDS:
            Image.new("RGB", (16, 16), (seed, 0, 0)).save(folder / file_name(prompt.id, seed))
    return folder


def test_a_folder_with_all_its_pictures_is_taken(arm, prompts):
    found = read_arm("UNO", arm, prompts, SEEDS)
    assert set(found.files) == {(prompt.id, seed) for prompt in prompts for seed in SEEDS}
    assert found.size == (16, 16) and not found.missing


def test_everything_wrong_with_a_folder_is_reported_at_once(arm, prompts):
    (arm / file_name(prompts[0].id, 1)).unlink()
    Image.new("RGB", (8, 16)).save(arm / file_name(prompts[1].id, 0))
    Image.new("RGB", (16, 16)).save(arm / "holiday.png")
    (arm / file_name(prompts[2].id, 0)).write_bytes(b"no picture")
    with pytest.raises(DataError) as error:
        read_arm("UNO", arm, prompts, SEEDS)
    said = str(error.value)
    assert "three-01__1.png" in said and "1 of 6 images are missing" in said
    assert "holiday.png" in said and "different sizes" in said and "8 x 16: three-02__0.png" in said
    assert "three-03__0.png can't be read" in said


def test_missing_pictures_can_be_agreed_to(arm, prompts):
    (arm / file_name(prompts[0].id, 1)).unlink()
    assert read_arm("UNO", arm, prompts, SEEDS, allow_missing=True).missing == (("three-01", 1),)


def test_a_folder_without_its_prompts_is_refused(arm, prompts):
    (arm / "prompts.csv").unlink()
    with pytest.raises(DataError, match=r"contains no prompts\.csv"):
        read_arm("UNO", arm, prompts, SEEDS)


def test_pictures_of_other_prompts_are_refused(arm, prompts):
    text = (arm / "prompts.csv").read_text()
    (arm / "prompts.csv").write_text(text.replace("a dog on a sofa", "a cat on a sofa").replace("three-03", "four-03"))
    with pytest.raises(DataError) as error:
        read_arm("UNO", arm, prompts, SEEDS)
    assert 'made from "a cat on a sofa"' in str(error.value) and "lacks 1 of the prompts" in str(error.value)


def test_the_list_for_uno_has_base_texts_and_its_pictures_come_back(tmp_path, prompts):
    reference, out, drawn = tmp_path / "dog.jpg", tmp_path / "uno", tmp_path / "drawn"
    Image.new("RGB", (8, 8)).save(reference)
    words = ["--class_word", "dog", "--prompts", str(tmp_path / "three.txt"), "--preservation", "none"]
    said = prompt_export.run([*words, "--to", "uno", "--reference", str(reference), "--out", str(out)])
    items = json.loads((out / "uno.json").read_text())
    assert [item["prompt"] for item in items] == [prompt.base for prompt in prompts]
    assert items[0]["image_paths"] == [str(reference)] and "--num_images_per_prompt 2" in said
    drawn.mkdir()
    for i, item in enumerate(items):
        for j in SEEDS:
            Image.new("RGB", (8, 8), (i, j, 0)).save(drawn / f"{i}_{j}.png")
            (drawn / f"{i}_{j}.json").write_text(json.dumps(item))
    assert "6 of 6" in external_import.run(["--from", str(drawn), "--to", str(out)])
    files = read_arm("UNO", out, prompts, SEEDS).files
    for i, prompt in enumerate(prompts):
        assert [Image.open(files[prompt.id, j]).getpixel((0, 0)) for j in SEEDS] == [(i, 0, 0), (i, 1, 0)]


def test_pictures_that_uno_drew_from_another_list_are_refused(arm, tmp_path):
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    for name, said in (("0_0", "a cat"), ("7_0", "a dog")):
        Image.new("RGB", (8, 8)).save(drawn / f"{name}.png")
        (drawn / f"{name}.json").write_text(json.dumps({"prompt": said}))
    with pytest.raises(DataError) as error:
        external_import.run(["--from", str(drawn), "--to", str(arm)])
    assert '0_0.json says "a cat"' in str(error.value) and "7_0.png is not an image of this list" in str(error.value)


def test_pictures_in_order_come_back_sorted_as_people_count(arm, tmp_path, prompts):
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    for k in range(6):
        Image.new("RGB", (8, 8), (9 + k, 0, 0)).save(drawn / f"picture {9 + k}.png")
    external_import.run(["--from", str(drawn), "--to", str(arm), "--as", "order"])
    files = read_arm("web", arm, prompts, SEEDS).files
    keys = [(row["id"], int(row["seed"])) for row in read_prompts_csv(arm / "prompts.csv")]
    assert [Image.open(files[key]).getpixel((0, 0))[0] for key in keys] == [9, 10, 11, 12, 13, 14]
    (drawn / "picture 9.png").unlink()
    with pytest.raises(DataError, match="5 images, but the list has 6"):
        external_import.run(["--from", str(drawn), "--to", str(arm), "--as", "order"])


def test_a_table_says_which_picture_is_which(arm, tmp_path):
    table, drawn = tmp_path / "table.csv", tmp_path / "drawn"
    drawn.mkdir()
    Image.new("RGB", (8, 8), (77, 0, 0)).save(drawn / "x.png")
    table.write_text("file,id,seed\nx.png,three-02,1\n")
    words = ["--from", str(drawn), "--to", str(arm), "--as", "table", "--table", str(table)]
    assert "1 of 6" in external_import.run(words)
    assert Image.open(arm / "three-02__1.png").getpixel((0, 0)) == (77, 0, 0)
    table.write_text("file,id,seed\nx.png,three-09,1\ny.png,three-02,1\n")
    with pytest.raises(DataError) as error:
        external_import.run(words)
    assert "line 2" in str(error.value) and "y.png" in str(error.value)


def test_seeds_and_folders_of_the_command_line():
    assert seeds_of("0-2,7") == [0, 1, 2, 7] and seeds_of("5") == [5]
    for wrong in ("", "3-1", "a", "0-9999"):
        with pytest.raises(ConfigError, match="--seeds"):
            seeds_of(wrong)
    assert named_folders(["UNO=a/b", "DreamO=c"], "--external") == {"UNO": "a/b", "DreamO": "c"}
    with pytest.raises(ConfigError, match="NAME=FOLDER"):
        named_folders(["a/b"], "--external")


@pytest.mark.parametrize("content", ["file,id,seed\ncafé.png,a,1\n".encode("latin-1"), b"file,id,seed\nx\0.png,a,1\n"])
def test_a_list_that_is_not_text_is_reported(tmp_path, content):
    (tmp_path / "prompts.csv").write_bytes(content)
    for read in (read_csv, read_prompts_csv):
        with pytest.raises(DataError, match=r"prompts\.csv is not (UTF-8 text|a text file)"):
            read(tmp_path / "prompts.csv")
