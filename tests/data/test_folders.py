"""A data folder: what is used, what a system put there for itself, and what looks meant and is left out."""

import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from library.config.dataset_file import read_concepts_and_pictures, read_dataset_config
from library.config.files import TomlFile, read_settings
from library.config.settings import DataSettings
from library.data.captions import captions_of
from library.data.folder import find_images, left_out_of
from library.data.images import image_size
from library.data.masks import find_masks
from library.data.pictures import find_pictures
from library.errors import ConfigError, DataError
from library.evaluation.external import PROMPTS_FILE, prompts_csv, read_arm
from library.evaluation.external_import import run as run_import
from library.evaluation.options import reference_files
from library.evaluation.prompts import EvaluationPrompt
from library.files.picture_files import is_hidden, is_picture, pictures_in, reads_heif
from library.preflight.doctor import findings
from library.preflight.plan import describe_plan
from tests.helpers.datasets import CONCEPT

HEAD = f"{CONCEPT}[[datasets]]\nresolution = 32\n"
HIDDEN = ["._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.jpg", "._0.txt"]


@pytest.fixture
def folder(tmp_path):
    """Two pictures with captions, among the hidden files of every system."""
    path = tmp_path / "dogs"
    (path / "__MACOSX").mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (32, 32), (90 * number, 0, 0)).save(path / f"{number}.png")
        (path / f"{number}.txt").write_text("a [V] dog")
    for name in HIDDEN:
        (path / name).write_bytes(b"\0\x05\x16\x07 nothing for a trainer")
    (path / "__MACOSX" / "0.png").write_bytes(b"\0\x05\x16\x07")
    return path


def config_of(folder, subset: str = ""):
    file = folder.parent / "data.toml"
    file.write_text(f'{HEAD}[[datasets.subsets]]\nimage_dir = "{folder}"\n{subset}')
    return read_dataset_config(TomlFile(file), DataSettings(masked_loss=True))


def left_out(folder, subset: str = "") -> list[tuple[tuple[str, ...], str]]:
    return [(one.names, f"{one} {one.remedy}") for one in left_out_of(config_of(folder, subset))]


def test_hidden_files_of_systems_are_ignored_silently(folder, tmp_path):
    assert all(is_hidden(name) for name in [*HIDDEN, "__MACOSX"]) and not is_hidden("dog.png")
    assert [path.name for path in find_images(str(folder))] == ["0.png", "1.png"]
    assert left_out(folder) == []
    assert sorted(find_masks(config_of(folder, f'conditioning_data_dir = "{folder}"').datasets[0].subsets[0])) == [
        "0",
        "1",
    ]


def test_a_run_on_such_a_folder_says_nothing_of_them(folder, plan_of):
    plan = plan_of(f'{HEAD}[[datasets.subsets]]\nimage_dir = "{folder}"\n')
    assert "not used" not in describe_plan(plan) and not plan.left_out


def test_other_endings_of_known_kinds_are_read(tmp_path):
    for name, kind in {"a.jfif": "JPEG", "b.JPE": "JPEG", "c.apng": "PNG", "d.dib": "DIB"}.items():
        Image.new("RGB", (8, 16), "red").save(tmp_path / name, kind)
    assert [image_size(path) for path in find_images(str(tmp_path))] == [(8, 16)] * 4


def test_a_folder_is_not_a_picture_whatever_its_name(folder):
    (folder / "mine.png").mkdir()
    assert "mine.png" not in [path.name for path in find_images(str(folder))]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.gif", "PNG"),
        ("b.heic", "pip install pillow-heif"),
        ("b.HEIC", "pip install pillow-heif"),
        ("c.jxl", "PNG"),
        ("d.psd", "PNG"),
        ("e.NEF", "Convert"),
        ("orphan.txt", "captions"),
        ("orphan.caption", "captions"),
    ],
)
def test_what_looks_meant_and_is_not_used_is_named_with_a_remedy(folder, monkeypatch, name, said):
    without_heif(monkeypatch)
    (folder / name).write_bytes(b"x")
    if not name.startswith("orphan"):
        (folder / name).with_suffix(".txt").write_text("its caption, which is not worth a word of its own")
    ((names, sentence),) = left_out(folder)
    assert names == (name,) and name in sentence and said in sentence and str(folder) in sentence


@pytest.mark.parametrize(
    ("wrong", "subset"),
    [
        ("2.TXT", ""),
        ("2.Txt", ""),
        ("2.png.txt", ""),
        ("2.txt.txt", ""),
        ("2.CAPTION", ""),
        ("2.caption", 'caption_extension = ".txt"\n'),
    ],
)
def test_a_caption_that_is_nearly_named_like_its_picture_is_named(folder, wrong, subset):
    Image.new("RGB", (32, 32)).save(folder / "2.png")
    (folder / wrong).write_text("a [V] dog")
    if (folder / "2.txt").is_file():
        pytest.skip("this file system does not tell them apart")
    ((names, sentence),) = left_out(folder, subset)
    assert names == (wrong,) and f'"{wrong}" to "2.txt"' in sentence
    with pytest.raises(DataError, match=r"2\.png has no caption") as error:
        captions_of(folder / "2.png", config_of(folder, subset).datasets[0].subsets[0])
    assert f'"{wrong}" to "2.txt"' in error.value.remedy


def test_a_second_caption_of_a_picture_is_not_a_mistake(folder):
    (folder / "0.caption").write_text("another program's")
    (folder / "README.txt").write_text("where they come from")
    assert left_out(folder) == []


def test_folders_inside_are_named_unless_the_config_names_them(folder):
    for name in ("more", "10_sks dog", "empty"):
        (folder / name).mkdir()
    for name in ("more", "10_sks dog"):
        Image.new("RGB", (32, 32)).save(folder / name / "0.png")
    (repeated, first), (others, second) = left_out(folder)
    assert repeated == ("10_sks dog",) and f'train_data_dir = "{folder}"' in first
    assert others == ("more",) and f'image_dir = "{folder / "more"}"' in second
    named = f'class_tokens = "dog"\n[[datasets.subsets]]\nimage_dir = "{folder / "more"}"\nclass_tokens = "dog"\n'
    assert [names for names, _ in left_out(folder, named)] == [("10_sks dog",)]


def test_a_folder_of_folders_says_what_it_holds(tmp_path):
    (tmp_path / "10_sks dog").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "10_sks dog" / "0.png")
    with pytest.raises(DataError, match="10_sks dog") as error:
        find_images(str(tmp_path))
    assert f'train_data_dir = "{tmp_path}"' in error.value.remedy
    with pytest.raises(ConfigError) as error:
        read_concepts_and_pictures(None, settings(train_data_dir=str(tmp_path / "10_sks dog")))
    assert f'train_data_dir = "{tmp_path}"' in error.value.remedy


def test_a_folder_of_unread_pictures_says_so(tmp_path, monkeypatch):
    without_heif(monkeypatch)
    for number in range(9):
        (tmp_path / f"{number}.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"contains no images.*0\.heic.*and 5 more") as error:
        find_images(str(tmp_path))
    assert "pillow-heif" in error.value.remedy


def test_pictures_next_to_the_folders_of_train_data_dir_are_reported(tmp_path):
    for name in ("10_sks dog", ".git", "__MACOSX"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "loose.png")
    notices = []
    read_concepts_and_pictures(None, settings(train_data_dir=str(tmp_path)), notices)
    said = "\n".join(notices)
    assert "loose.png" in said and ".git" not in said and "__MACOSX" not in said


def settings(**data):
    return read_settings(None, {"pretrained_model_name_or_path": "m", **data})


def test_masks_that_nothing_has_are_named(folder, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in ("0.png", "1.png", "two.png"):
        Image.new("L", (8, 8)).save(masks / name)
    (masks / "2.gif").write_bytes(b"x")
    found = left_out(folder, f'conditioning_data_dir = "{masks}"\n')
    assert [names for names, _ in found] == [("2.gif",), ("two.png",)]


def test_the_plan_and_the_doctor_say_what_is_not_used(folder, plan_of):
    (folder / "a.gif").write_bytes(b"x")
    plan = plan_of(f'{HEAD}[[datasets.subsets]]\nimage_dir = "{folder}"\n')
    assert "not used: a.gif" in describe_plan(plan)
    assert any("a.gif" in one.what for one in findings(plan))


# Evaluation's folders


def test_references_are_the_pictures_that_training_sees(folder):
    Image.new("RGB", (8, 8)).save(folder / "2.bmp")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 16)).save(folder / "3.jpg", exif=exif)
    config = config_of(folder)
    assert reference_files(None, config, config.concepts[0]) == find_images(str(folder))


def test_hidden_files_do_not_spoil_pictures_made_elsewhere(tmp_path):
    prompts = [EvaluationPrompt("p1", "a sks dog", "a dog", "concept")]
    (tmp_path / PROMPTS_FILE).write_text(prompts_csv(prompts, [0]))
    Image.new("RGB", (8, 8)).save(tmp_path / "p1__0.png")
    (tmp_path / "._p1__0.png").write_bytes(b"x")
    assert list(read_arm("other", tmp_path, prompts, [0]).files) == [("p1", 0)]
    source = tmp_path / "made"
    source.mkdir()
    Image.new("RGB", (8, 8)).save(source / "a.png")
    (source / "._a.png").write_bytes(b"x")
    assert run_import(["--from", str(source), "--to", str(tmp_path), "--as", "order"]).startswith("1 of 1")


# HEIC


def without_heif(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    reads_heif.cache_clear()


@pytest.fixture
def heif(monkeypatch):
    """A stand-in for pillow-heif, which counts how often it is registered."""
    registered = []
    stand_in = SimpleNamespace(register_heif_opener=lambda: registered.append(1))
    monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)
    reads_heif.cache_clear()
    yield registered
    reads_heif.cache_clear()


def test_heic_is_read_where_pillow_heif_is_installed(folder, heif):
    Image.new("RGB", (8, 16)).save(folder / "0.HEIC", "PNG")  # the stand-in reads nothing; the content says what it is
    assert is_picture("0.HEIC") and "0.HEIC" in [path.name for path in pictures_in(folder)]
    assert image_size(folder / "0.HEIC") == image_size(folder / "0.HEIC") == (8, 16)
    assert left_out(folder) == [] and heif == [1]
    (folder / "0.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(DataError, match=r"0\.HEIC can't be read: it is a damaged HEIC image") as error:
        image_size(folder / "0.HEIC")
    assert "pip" not in error.value.remedy


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    reads_heif.cache_clear()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC image"),
        (b"\xff\x0a" + bytes(50), "is a JPEG XL image"),
        (b"<!DOCTYPE html><title>404</title>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"nothing like a picture", "is not an image"),
    ],
)
def test_what_a_file_is_instead_of_a_picture_is_reported(folder, monkeypatch, content, said):
    without_heif(monkeypatch)
    (folder / "0.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"0\.png can't be read.*{said}") as error:
        find_pictures(config_of(folder), 8)
    assert ("pip install pillow-heif" in error.value.remedy) == ("HEIC" in said)


# Settings of folders and captions that no folder or caption can have


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('caption_extension = "."', r"caption_extension is '\.'"),
        ('caption_extension = "txt/"', r"caption_extension is 'txt/'"),
        ('image_dir = " "', "image_dir is ' '; it must not be empty"),
    ],
)
def test_a_setting_that_nothing_can_be_done_with_is_refused_when_it_is_read(tmp_path, line, said):
    folder = "" if line.startswith("image_dir") else f'image_dir = "{tmp_path}"\n'
    file = tmp_path / "data.toml"
    file.write_text(f"{HEAD}[[datasets.subsets]]\n{folder}{line}\n")
    with pytest.raises(ConfigError, match=said):
        read_dataset_config(TomlFile(file), DataSettings())


def test_separators_and_endings_that_can_be_used_are(folder):
    (folder / "0.tags.txt").write_text("a [V] dog tags")
    subset = config_of(folder, 'caption_separator = " "\ncaption_extension = "tags.txt"\n').datasets[0].subsets[0]
    assert captions_of(folder / "0.png", subset)[0] == ["a [V] dog tags"]
    (unset,) = config_of(folder, 'caption_extension = ""\n').datasets[0].subsets
    assert captions_of(folder / "0.png", unset)[0] == ["a [V] dog"]


def test_buckets_of_nothing_are_refused(folder):
    file = folder.parent / "data.toml"
    buckets = "enable_bucket = true\nmin_bucket_reso = 512\nmax_bucket_reso = 256\n"
    file.write_text(f'{HEAD}{buckets}[[datasets.subsets]]\nimage_dir = "{folder}"\n')
    said = rf"data\.toml:{HEAD.count(chr(10)) + 2} .*: min_bucket_reso is 512; .* max_bucket_reso, 256"
    with pytest.raises(ConfigError, match=said):
        read_dataset_config(TomlFile(file), DataSettings())


def test_regularisation_pictures_that_would_never_be_shown_are_reported(folder):
    file, notices = folder.parent / "data.toml", []
    subset = f'[[datasets.subsets]]\nimage_dir = "{folder}"\n'
    file.write_text(f"{HEAD}{subset}[[datasets]]\nresolution = 32\n{subset}is_reg = true\n")
    read_dataset_config(TomlFile(file), DataSettings(), notices)
    assert any("regularisation images" in one for one in notices)
    file.write_text(f"{HEAD}{subset}{subset.replace('dogs', 'dogs/..')}is_reg = true\n")
    notices.clear()
    read_dataset_config(TomlFile(file), DataSettings(), notices)
    assert not any("regularisation images" in one for one in notices)
