"""Every mistake in a TOML file gets one clear sentence: file, setting, what is wrong, the nearest right thing."""

import dataclasses
import re

import pytest
import toml

from library.config.dataset_file import find_dataset_file, read_dataset_config
from library.config.fields import default_of, name_of
from library.config.files import (
    TomlFile,
    add_settings_to,
    as_tables,
    command_line_parser,
    often_changed,
    read_settings,
    settings_given,
    to_toml,
)
from library.config.groups import groups, setting_names
from library.config.settings import DataSettings
from library.errors import ConfigError
from tests.helpers.datasets import CONCEPT
from tests.helpers.places import ROOT

MODEL = 'pretrained_model_name_or_path = "m"\n'


@pytest.fixture
def settings_from(tmp_path):
    def read(text: str, **command_line):
        file = tmp_path / "dog.toml"
        file.write_text(text)
        return read_settings(TomlFile(file), command_line)

    return read


def test_an_unknown_setting_names_file_line_and_the_nearest(settings_from):
    with pytest.raises(ConfigError) as error:
        settings_from(MODEL + "[pure_learning]\netta = 1.0\n")
    assert re.search(
        r'dog\.toml:3 \[pure_learning\]: "etta" is not a setting\.\n  Did you mean "eta"\?', str(error.value)
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('eta = "1.0"', "eta is '1.0'; it must be a number"),
        ("eta = -1", "eta is -1; it must be at least 0"),
        ("eta = true", "eta is True; it must be a number"),
        ("network_dim = 4.5", "network_dim is 4.5; it must be a whole number"),
        ("network_dim = 0", "it must be at least 1"),
        ("gradient_checkpointing = 1", "it must be true or false"),
        ('mixed_precision = "fp8"', 'it must be one of "no", "fp16", "bf16"'),
        ('v_original = "Live"', 'it must be one of "live", "detached", "frozen"'),
        ('lambda = "adaptiv"', 'it must be "adaptive" or a number'),
        ("target_modules = [1]", "it must be a list; each item is a string in quotes"),
        ('merged = true\nextractor = "x"', "merged = true trains the extractor in stage 2, but extractor"),
        ("eta = 0\nconcept_loss_weight = 0", "stage 2 would learn nothing"),
        ('guidance_lora = false\nconcept_embeddings = "none"', 'guidance_lora = false and concept_embeddings = "none"'),
    ],
)
def test_an_impossible_value_is_reported(settings_from, line, said):
    with pytest.raises(ConfigError) as error:
        settings_from(MODEL + line)
    assert said in str(error.value)


def test_all_mistakes_are_shown_at_once(settings_from):
    with pytest.raises(ConfigError) as error:
        settings_from("etta = 1\nnetwork_dim = 0\n")
    for said in ('"etta" is not a setting', "network_dim is 0", "pretrained_model_name_or_path is missing"):
        assert said in str(error.value)


def test_a_missing_or_broken_file(tmp_path):
    (tmp_path / "dog.toml").write_text("a = [1,\nb = ")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        TomlFile(tmp_path / "dog.toml")
    with pytest.raises(ConfigError, match=r"There is no file .*dgo\.toml") as error:
        TomlFile(tmp_path / "dgo.toml")
    assert "dog.toml" in error.value.remedy


def test_kohyas_habits(settings_from, tmp_path):
    """Sections are decoration, .toml is optional, the command line beats the file, the file beats the default."""
    settings = settings_from(MODEL + "eta = 2\n[whatever]\nnetwork_dim = 8\n", network_dim=16)
    assert (settings.pure_learning.eta, settings.network.network_dim) == (2.0, 16)
    assert settings.network.network_alpha == 16.0, "an alpha that nobody set follows the rank"
    assert TomlFile(tmp_path / "dog").path.name == "dog.toml"


def test_the_same_setting_twice_is_an_error(settings_from):
    with pytest.raises(ConfigError, match='"eta" is already set at'):
        settings_from(MODEL + "eta = 1\n[pure_learning]\neta = 2\n")


def parse(*words: str) -> dict:
    parser = command_line_parser("test")
    add_settings_to(parser)
    return settings_given(parser.parse_args(words))


def test_the_command_line_has_every_setting():
    given = parse(
        *("--eta", "0.25", "--lambda", "adaptive", "--no_gradient_checkpointing", "--merged", "--seed", "7"),
        *("--resolution", "512,768", "--target_modules", "to_q", "to_k", "--learning_rate", "1e-3", "--resume", "auto"),
    )
    assert given == {
        "eta": 0.25,
        "lambda": "adaptive",
        "gradient_checkpointing": False,
        "merged": True,
        "seed": 7,
        "resolution": [512, 768],
        "target_modules": ["to_q", "to_k"],
        "learning_rate": 1e-3,
        "resume": "auto",
    }
    with pytest.raises(ConfigError, match="unrecognized arguments: --etta") as error:
        parse("--etta", "1")
    assert error.value.remedy == 'Did you mean "eta"?'


def options_shown(asked: str, capsys) -> set[str]:
    with pytest.raises(SystemExit) as ended:
        parse(asked)
    assert ended.value.code == 0
    return set(re.findall(r"^  --(\w+)", capsys.readouterr().out, flags=re.MULTILINE))


def test_help_shows_thirty_settings_and_help_all_shows_all(capsys):
    assert len(often_changed()) == 30 and set(setting_names()) > often_changed()
    of_the_command = {"config_file", "help_all"}
    assert options_shown("--help", capsys) == often_changed() | of_the_command
    assert options_shown("--help_all", capsys) == {*setting_names()} | of_the_command


def test_lists_of_numbers_on_the_command_line_are_numbers(settings_from):
    given = parse("--sample_strengths", "0", "0.5", "--skip_guidance_layers", "7", "8")
    assert given == {"sample_strengths": [0, 0.5], "skip_guidance_layers": [7, 8]}
    assert settings_from(MODEL, **given).samples.sample_strengths == [0, 0.5]
    with pytest.raises(ConfigError, match="each item is a number"):
        settings_from(MODEL, **parse("--sample_strengths", "weak"))


def test_settings_written_out_read_back_the_same(settings_from):
    settings = settings_from(MODEL + 'lambda = 3\nresolution = [64, 32]\nsample_prompts = "p"\n')
    assert settings_from(to_toml(as_tables(settings))) == settings


@pytest.mark.parametrize("text", ["C:\\Users\\xavier\\new", 'say "hi"', "äöü 猫 🐈", "two\nlines\t\\n", "#[a]='b'"])
def test_any_text_survives_being_written(text):
    tables = {"a": {"text": text, "list": [text, text]}, "datasets": [{"subsets": [{"image_dir": text}]}]}
    assert toml.loads(to_toml(tables)) == tables


def test_every_setting_has_its_sentence_and_one_name():
    names = [name_of(field) for group in groups().values() for field in dataclasses.fields(group)]
    assert len(names) == len(set(names)) == len(setting_names())
    for group in groups().values():
        for field in dataclasses.fields(group):
            assert field.metadata["help"].strip().endswith((".", "?")), field.name


def test_lean_is_the_default():
    settings = read_settings(TomlFile(ROOT / "presets" / "lean.toml"))
    for section, group in groups().items():
        for field in dataclasses.fields(group):
            if name_of(field) in ("pretrained_model_name_or_path", "dataset_config", "sample_every_n_steps"):
                continue
            assert getattr(getattr(settings, section), field.name) == default_of(field), name_of(field)


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.toml")), ids=lambda path: path.name)
def test_every_preset_reads_and_names_a_dataset_that_reads(preset, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = read_settings(TomlFile(preset))
    assert read_dataset_config(find_dataset_file(None, settings.data), settings.data).concepts


@pytest.mark.parametrize("file", sorted((ROOT / "dataset_configs").glob("*.toml")), ids=lambda path: path.name)
def test_every_dataset_config_reads(file):
    assert read_dataset_config(TomlFile(file), DataSettings()).datasets


def test_the_paper_is_the_paper_and_the_release_the_release():
    from library.objectives import student_objective

    paper = read_settings(TomlFile(ROOT / "presets" / "paper.toml"))
    assert [(name, weight) for name, weight, _ in student_objective(paper).terms] == [
        ("concept", 1.0),
        ("pure", 1.0),
    ]
    pure = paper.pure_learning
    assert (pure.lambda_, pure.v_original, pure.guidance_against) == ("adaptive", "live", "null")
    release = read_settings(TomlFile(ROOT / "presets" / "release.toml")).pure_learning
    assert (release.eta, release.lambda_, release.guidance_lora) == (2.0, 1.0, False)


@pytest.fixture
def dataset_from(tmp_path):
    def read(text: str, **defaults):
        file = tmp_path / "data.toml"
        file.write_text(text)
        return read_dataset_config(TomlFile(file), DataSettings(**defaults))

    return read


def test_values_are_looked_up_in_subset_dataset_general_settings(dataset_from):
    text = (
        CONCEPT + "[general]\nnum_repeats = 2\nflip_aug = true\nresolution = 256\n"
        "[[datasets]]\nnum_repeats = 3\nbatch_size = 5\n"
        '[[datasets.subsets]]\nimage_dir = "a"\nnum_repeats = 4\n[[datasets.subsets]]\nimage_dir = "b"\n'
        '[[datasets]]\nresolution = [64, 32]\n[[datasets.subsets]]\nimage_dir = "c"\n'
    )
    config = dataset_from(text, dataset_repeats=9, train_batch_size=7, caption_extension=".caption", class_tokens="dog")
    subsets = [subset for dataset in config.datasets for subset in dataset.subsets]
    assert [subset.num_repeats for subset in subsets] == [4, 3, 2]
    assert [dataset.batch_size for dataset in config.datasets] == [5, 7]
    assert [dataset.resolution for dataset in config.datasets] == [(256, 256), (64, 32)]
    assert all(s.flip_aug and s.caption_extension == ".caption" and s.class_tokens == "dog" for s in subsets)
    assert all(subset.concept == "dog" for subset in subsets)


SUBSET = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SUBSET, "has no [[concepts]]"),
        (CONCEPT, "names no images"),
        (CONCEPT + SUBSET + "num_repeat = 2\n", 'Did you mean "num_repeats"?'),
        (CONCEPT + SUBSET + "resolution = 5\n", '"resolution" is not allowed here'),
        (CONCEPT + SUBSET + 'metadata_file = "m.json"\n', '"metadata_file" is not supported'),
        (CONCEPT + SUBSET + 'num_repeats = "2"\n', "num_repeats is '2'; it must be a whole number"),
        (CONCEPT + SUBSET + 'concept = "dgo"\n', 'Did you mean "dog"?'),
        (CONCEPT.replace('class_word = "dog"', "") + SUBSET, "class_word is missing"),
        (CONCEPT + CONCEPT + SUBSET, 'two concepts are named "dog"'),
        (CONCEPT + "kin = 1\n" + SUBSET, 'Did you mean "kind"?'),
        (CONCEPT + 'kind = "object"\n' + SUBSET, 'it must be one of "subject", "style"'),
        (CONCEPT + "[[datasets]]\nresolution = [1, 2, 3]\n", "it must be a number or [width, height]"),
        (CONCEPT + '[datasets]\nx = "y"\n', "must be a list of tables"),
    ],
)
def test_a_mistake_in_a_dataset_config_is_reported(dataset_from, text, said):
    with pytest.raises(ConfigError) as error:
        dataset_from(text)
    assert said in str(error.value)


def test_a_concept_without_pictures_is_reported(dataset_from):
    other = '[[concepts]]\nname = "ink"\ntrigger = "ohwx"\nkind = "style"\n'
    with pytest.raises(ConfigError, match=r"no subset .* the concept ink"):
        dataset_from(CONCEPT + other + SUBSET + 'concept = "dog"\n')
    with pytest.raises(ConfigError, match="concept is missing"):
        dataset_from(CONCEPT + other + SUBSET)


def test_the_list_of_settings_is_up_to_date():
    from library.config.reference import settings_reference

    written = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert written == settings_reference(), "run python -m library.config.reference"
