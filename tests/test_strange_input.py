"""Strange captions, paths, settings and LoRA files: they work, or are refused in one sentence."""

import json
import struct

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from library.adapters.files import load_concepts, read_lora
from library.config.files import TomlFile, read_settings
from library.data.captions import captions_of, read_caption
from library.errors import ConfigError, DataError, ModelError, StorageError
from library.files import fingerprint
from library.files.atomic import write_text
from library.files.checkpoint import Position, SavedState, StateFolder, load_state
from library.files.text_file import LONGEST
from library.preflight.plan import describe_plan
from library.saving.outputs import check_extractor
from library.training.run import Run
from tests.helpers.datasets import CONCEPT, DOG

ONE = f"{CONCEPT}[[datasets]]\nresolution = 32\n"


@pytest.fixture
def captioned(plan_of, tmp_path):
    """The plan of one picture with this caption."""
    folder = tmp_path / "dogs"
    folder.mkdir()
    Image.new("RGB", (32, 32), "red").save(folder / "a.png")

    def make(caption: bytes, concept: str = ONE):
        (folder / "a.txt").write_bytes(caption)
        return plan_of(f"{concept}[[datasets.subsets]]\nimage_dir = {json.dumps(str(folder))}\n")

    return make


# Captions


@pytest.mark.parametrize(
    "encoded",
    [
        "a [V] dog, café".encode(),
        "a [V] dog, café".encode("utf-8-sig"),
        "a [V] dog, café".encode("utf-16"),
        b"\xfe\xff" + "a [V] dog, café\r\n".encode("utf-16-be"),
    ],
    ids=["UTF-8", "with a mark", "UTF-16", "UTF-16, big end first"],
)
def test_encodings_that_say_what_they_are_are_read(captioned, encoded):
    assert captioned(encoded).pictures[0].prompts[0].complete == "a sks dog, café"


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("a [V] dog, café".encode("latin-1"), r"a\.txt is not UTF-8 text"),
        ("a [V] dog".encode("utf-16-le"), r"a\.txt is not a text file: .*zero bytes"),
        (b"\xff\xfea", r"a\.txt is not UTF-8 text"),
        (b"a [V] dog " * (LONGEST // 10 + 1), r"a\.txt is larger than 1 MB"),
        (b"", 'the caption "" contains neither'),
        (b"\xef\xbb\xbf \r\n\t", 'the caption "" contains neither'),
    ],
    ids=["Latin-1", "UTF-16 without a mark", "half a character", "a megabyte", "empty", "empty but for a mark"],
)
def test_captions_that_can_not_be_used_name_the_file_and_what_to_do(captioned, caption, said):
    with pytest.raises(DataError, match=said) as error:
        captioned(caption)
    assert "a.txt" in error.value.what and error.value.remedy


def test_a_caption_of_100_kb_is_cut_off_and_shown_in_a_line(captioned):
    plan = captioned(b"a [V] dog " + b"on a wooden bench " * 5600)
    Run(plan).plan.parts.texts.prepare(plan.texts())
    assert plan.parts.texts[plan.triples[0].complete].states.context.isfinite().all()
    said = describe_plan(plan)
    assert "tokens of 'a sks dog on a wooden bench" in said and max(map(len, said.splitlines())) < 400


def test_an_empty_caption_of_a_style_is_the_style_alone(captioned):
    style = ONE.replace('class_word = "dog"', 'kind = "style"')
    triple = captioned(b"", style).triples[0]
    assert (triple.complete, triple.base) == ("sks style", "")


def test_a_caption_that_is_gone_is_reported(captioned, tmp_path):
    subset = captioned(b"a dog").pictures[0].subset
    (tmp_path / "dogs" / "a.txt").unlink()
    with pytest.raises(DataError, match="has no caption"):
        captions_of(tmp_path / "dogs" / "a.png", subset)
    with pytest.raises(DataError, match="can't be read: No such file"):
        read_caption(tmp_path / "dogs" / "a.txt")


# Paths

STRANGE = ["with spaces", "quotes \" and ' both", "ünï犬🐕", "a" * 250, "#hash = [x] {y} %s $5 \\n"]


def test_paths_of_every_kind_are_trained_from_and_written_to(plan_of, tmp_path):
    """Folders, pictures, captions, cache and results; the written config says the same."""
    folder = tmp_path.joinpath(*STRANGE)
    folder.mkdir(parents=True)
    for index, name in enumerate(STRANGE):
        Image.new("RGB", (32, 32), (60 * index, 0, 0)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a [V] dog city", encoding="utf-8")
    path = json.dumps(str(folder), ensure_ascii=False).replace("{", "{{").replace("}", "}}")
    text = f"{ONE}[[datasets.subsets]]\nimage_dir = {path}\n"
    settings = {"output_dir": str(folder / "out"), "cache_dir": str(folder / "cache"), "output_name": "ünï 犬's"}
    run = Run(plan_of(text, **settings))
    files = run.train()
    assert all(file.is_file() and file.parent == folder / "out" for file in files)
    written = TomlFile(folder / "out" / "config.toml")
    again = read_settings(written)
    assert (again.saving.output_dir, again.saving.output_name) == (settings["output_dir"], settings["output_name"])
    assert written.tables["datasets"][0]["subsets"][0]["image_dir"] == str(folder)


def test_a_name_that_is_too_long_is_reported_before_anything_is_computed(plan_of, monkeypatch):
    plan = plan_of(output_name="x" * 240)
    monkeypatch.setattr(type(plan.parts.model), "encode_text", lambda *_: pytest.fail("something was computed"))
    with pytest.raises(StorageError, match="its name or path is too long") as error:
        Run(plan).train()
    assert "shorter output_name" in error.value.remedy


def test_a_text_that_no_file_can_hold_is_refused_in_a_sentence_and_leaves_the_file_as_it_was(tmp_path):
    write_text(tmp_path / "a.txt", "before")
    with pytest.raises(StorageError, match=r"a\.txt can't be written") as error:
        write_text(tmp_path / "a.txt", "\ud800")
    assert str(error.value).isprintable() and (tmp_path / "a.txt").read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


# Settings


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("twice.toml", b"eta = 1\nseed = 2\neta = 3\n", r'twice\.toml:3: "eta" is already set at .*twice\.toml:1'),
        ("twice.toml", b"[noise]\nlogit_std = 1\n[noise]\n", r'twice\.toml:3: "noise" is already set at .*:1'),
        ("twice.json", b'{"eta": 1,\n"eta": 2}', r'twice\.json:2: "eta" is already set at .*twice\.json:1'),
        ("latin.toml", 'output_name = "café"'.encode("latin-1"), "is not UTF-8 text: byte 0xE9 in line 1"),
        (
            "wide.toml",
            "eta = 1".encode("utf-16-le"),
            r"wide\.toml is not a text file: .*zero bytes",
        ),
        ("half.toml", b"\xff\xfee", r"half\.toml is not UTF-8 text: byte 0x65 in line 1"),
        ("zeros.toml", b"eta = 1\n\0\0", r"zeros\.toml is not a text file: .*zero bytes, the first in line 2"),
        ("deep.toml", b"a = " + b"[" * 5000 + b"]" * 5000, "nested lists"),
        ("deep.json", b"[" * 100_000, "nested lists"),
        ("large.toml", b"a = 1\n" * 1_700_000, r"large\.toml has 10\.2 MB"),
    ],
)
def test_files_of_settings_that_can_not_be_read_are_refused_in_a_sentence(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        TomlFile(tmp_path / name)


def test_a_file_in_which_everything_is_wrong_is_refused_at_once(tmp_path):
    (tmp_path / "a.toml").write_text("".join(f"key_{index} = 1\n" for index in range(50_000)))
    with pytest.raises(ConfigError) as error:
        read_settings(TomlFile(tmp_path / "a.toml"))
    assert str(error.value).count("is not a setting") == 20 and "more errors" in str(error.value)


# LoRA, concept and extractor files


def header_of(content: bytes) -> dict:
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def with_header(content: bytes, header: dict) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + int.from_bytes(content[:8], "little") :]


def says(change) -> object:
    """A file whose header is wrong about its first tensor."""

    def lie(content: bytes) -> bytes:
        header = header_of(content)
        change(header[next(name for name in header if name != "__metadata__")])
        return with_header(content, header)

    return lie


def overlapping(content: bytes) -> bytes:
    header = header_of(content)
    one, two = [name for name in header if name != "__metadata__"][:2]
    header[one]["data_offsets"], header[one]["shape"] = header[two]["data_offsets"], header[two]["shape"]
    return with_header(content, header)


LIES = {
    "a header longer than the file": lambda content: (1 << 62).to_bytes(8, "little") + content[8:],
    "a header a little longer than the file": lambda content: len(content).to_bytes(8, "little") + content[8:],
    "a header shorter than it is": lambda content: (20).to_bytes(8, "little") + content[8:],
    "no header": lambda content: content[:4],
    "nothing at all": lambda content: b"",
    "a header of zero bytes": lambda content: bytes(8) + content[8:],
    "a larger shape": says(lambda tensor: tensor.update(shape=[1 << 40, 1 << 20])),
    "a shape below zero": says(lambda tensor: tensor.update(shape=[-4])),
    "another type": says(lambda tensor: tensor.update(dtype="F64")),
    "an unknown type": says(lambda tensor: tensor.update(dtype="X9")),
    "places behind the end": says(lambda tensor: tensor.update(data_offsets=[0, 1 << 50])),
    "places that run backwards": says(lambda tensor: tensor.update(data_offsets=[64, 0])),
    "two tensors in one place": overlapping,
    "a hole": lambda content: content + bytes(64),
    "a header that is no JSON": lambda content: content[:8] + b"}" + content[9:],
    "a header of lists": lambda content: struct.pack("<Q", 6) + b"[1,2] " + content[200:],
    "a pickle": lambda content: b"\x80\x02}q\x00." + content,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Files as a run writes them, with one layer."""
    folder = tmp_path_factory.mktemp("results")
    layer = "transformer_blocks.0.attn.to_q"
    halves = {"down": torch.ones(2, 32), "up": torch.ones(32, 2), "alpha": torch.tensor(2.0)}
    described = {"name": "dog", "trigger": "sks", "class_word": "dog", "kind": "subject", "target": "[V] dog"}
    described |= {"clip_tokens": 1, "t5_tokens": 1, "every_block": True, "t5_length": 10}
    vectors = {f"lora_concept.{name}": torch.ones(3, 2, 32) for name in ("dog", "cat")}
    about = {"concepts": json.dumps([described])}
    names = {"down": "lora_A.weight", "up": "lora_B.weight", "alpha": "alpha"}
    lora = {f"transformer.{layer}.{names[half]}": tensor for half, tensor in halves.items()}
    extractor = {f"extractor.dog.{layer}.{half}": tensor for half, tensor in halves.items()}
    save_file(lora, folder / "lora.safetensors")
    save_file(vectors, folder / "concept.safetensors", about)
    save_file({**vectors, **extractor}, folder / "extractor.safetensors", about)
    return folder


READERS = {
    "lora": read_lora,
    "concept": load_concepts,
    "extractor": lambda path: check_extractor(str(path), [DOG]),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_about_itself_is_refused_in_a_sentence(results, tmp_path, lie):
    for kind, read in READERS.items():
        path = tmp_path / f"{kind}.safetensors"
        content = (results / f"{kind}.safetensors").read_bytes()
        path.write_bytes(content)
        read(path)
        path.write_bytes(LIES[lie](content))
        with pytest.raises(ModelError) as error:
            read(path)
        assert str(path) in error.value.what, error.value


def test_an_extractor_that_is_damaged_is_refused_before_anything_is_computed(results, tmp_path):
    whole = load_file(results / "extractor.safetensors")
    about = header_of((results / "extractor.safetensors").read_bytes())["__metadata__"]
    down = next(name for name in whole if name.endswith(".down"))
    harms = {
        "incomplete": {name: tensor for name, tensor in whole.items() if name != down},
        "NaN": {**whole, down: torch.full((2, 32), float("nan"))},
        "shape": {**whole, down: torch.ones(2, 32, 3)},
        "not a single number": {**whole, down.replace(".down", ".alpha"): torch.ones(2)},
        "no extractor for the concept": {name: tensor for name, tensor in whole.items() if "extractor" not in name},
    }
    for said, tensors in harms.items():
        save_file(tensors, tmp_path / "extractor.safetensors", about)
        with pytest.raises(ModelError, match=said):
            check_extractor(str(tmp_path / "extractor.safetensors"), [DOG])


@pytest.mark.parametrize("lie", LIES)
def test_a_state_that_lies_about_itself_is_refused_in_a_sentence(tmp_path, lie):
    """Even if its hash is correct."""
    saved = SavedState(Position({"student": 1}), {}, {"a": torch.ones(4, 4), "b": torch.zeros(8)})
    folder = StateFolder(tmp_path).save(saved)
    assert load_state(folder, {}).tree["a"].sum() == 16
    content = LIES[lie]((folder / "tensors.safetensors").read_bytes())
    (folder / "tensors.safetensors").write_bytes(content)
    about = json.loads((folder / "state.json").read_text())["state"] | {"tensors": fingerprint.of_bytes(content)}
    (folder / "state.json").write_text(json.dumps({"state": about, "sha256": fingerprint.of_key(about)}))
    with pytest.raises(ModelError, match="is not a readable state"):
        load_state(folder, {})
