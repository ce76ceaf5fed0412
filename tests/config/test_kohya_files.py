"""sd-scripts files run unchanged. The `#=` lines of each file in `tests/kohya` say what it means."""

import dataclasses
import functools
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import purecc_train
from library.adapters.files import write_lora
from library.adapters.network import LayerWeights
from library.config.data_settings import DataSettings
from library.config.dataset import Concept, as_tables
from library.config.dataset_file import read_concepts_and_pictures, read_dataset_config
from library.config.files import (
    TomlFile,
    add_settings_to,
    command_line_parser,
    read_settings,
    settings_given,
    to_toml,
)
from library.config.groups import setting_names
from library.config.kohya.data import concept_of_tokens, unsaid_concepts, what_is_missing
from library.config.kohya.training import COUNTS_OVER, DEFAULTS_THAT_DIFFER, VALUES, known_names
from library.config.method_rules import unread
from library.config.synonyms import REMOVED, synonyms
from library.drawing.sample_prompts import parse, read_prompt_lines
from library.errors import ConfigError, PureCCError
from library.flow import ConceptError
from library.models.opening import load_model
from library.objectives import ConceptTerm
from library.parts.branching import objective_of
from library.predictions import EXTRACTOR, STUDENT
from library.preflight.plan import make_plan, stage_rates

CORPUS = Path(__file__).parent / "kohya"
FILES = sorted(file for file in CORPUS.iterdir())
CAPTIONS = {
    "dog": ["sks dog, city, night, house"] * 4,
    "bare": [None] * 4,
    "class": [None] * 2,
    "cat": [None],
    "caption": [None],
    "house": ["a house"],
    "kept": ["sks dog|||city, night, grass|||best"],
    "grouped": ["sks dog, red ball;;;green grass, night, city"],
    "wild": ["a {photo|picture} of sks dog\nsks dog on grass"],
    "lines": ["sks dog on grass\nsomething else"],
    "alpha": ["a sks dog"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model) -> Path:
    """A folder with everything that the corpus mentions; its model can be planned at any size."""
    root = tmp_path_factory.mktemp("kohya")
    shutil.copytree(tiny_model, root / "model")
    config = root / "model" / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pos_embed_max_size": 384}))
    for name, captions in CAPTIONS.items():
        folder = root / "img" / name
        folder.mkdir(parents=True)
        for index, caption in enumerate(captions):
            Image.new("RGBA" if name == "alpha" else "RGB", (32, 32)).save(folder / f"{index}.png")
            if caption is not None:
                (folder / f"{index}.txt").write_text(caption)
    (root / "img" / "caption" / "0.caption").write_text("a sks dog by a wall")
    (root / "img" / "shapes").mkdir()
    for index, size in enumerate([(900, 300), (300, 900), (500, 500)]):
        Image.new("RGB", size).save(root / "img" / "shapes" / f"{index}.png")
    (root / "masks").mkdir()
    for index in range(4):
        Image.new("L", (32, 32), 255).save(root / "masks" / f"{index}.png")
    shutil.copytree(root / "img" / "dog", root / "train" / "10_sks dog")
    (root / "train" / "notes").mkdir()
    shutil.copytree(root / "img" / "class", root / "reg" / "1_dog")
    (root / "prompts.txt").write_text(
        "# a comment\na sks dog in a city --n ugly --w 512 --h 768 --d 7 --l 5.5 --s 20 --g 3.5\n\na red house\n"
    )
    layer = LayerWeights(torch.ones(6, 32), torch.ones(32, 6), 3.0)
    write_lora(root / "old.safetensors", {"transformer_blocks.0.attn.to_out.0": layer}, "kohya", torch.float16, {})
    for file in CORPUS.iterdir():
        shutil.copy(file, root / file.name)
    return root


opened_once = functools.cache(load_model)
"""Opening tokenizers takes most of the time of a plan."""


@pytest.fixture
def planned(world, monkeypatch):
    """Reads and plans a dataset or settings file of the world; returns what its `#=` lines are about."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("PICTURES", str(world / "img"))
    monkeypatch.setattr("library.preflight.plan.check_optimizer", lambda *_: None)  # bitsandbytes may be missing
    monkeypatch.setattr("library.report.tracking.check_trackers", lambda *_: None)  # so may wandb
    monkeypatch.setattr("library.parts.parts.load_model", opened_once)

    def plan(name: str, **given) -> dict:
        notices: list[str] = []
        if name.startswith("data_"):
            given = {"pretrained_model_name_or_path": "model", "dataset_config": name, **given}
        file = None if name.startswith("data_") else TomlFile(name)
        settings = read_settings(file, {"replay_images": 0, **given}, notices)
        config = read_concepts_and_pictures(file, settings, notices)
        made = make_plan(settings, config)
        subsets = [subset for dataset in config.datasets for subset in dataset.subsets]
        batches = made.order.batches_per_epoch
        draws = [draw for number in range(batches) for draw in made.order.batch(number)]
        return {
            "plan": made,
            "settings": made.settings,
            "config": config,
            "subsets": subsets,
            "one": subsets[0],
            "concept": config.concepts[0],
            "pictures": made.pictures,
            "sizes": {picture.size for picture in made.pictures},
            "texts": {(triple.complete, triple.base) for picture in made.pictures for triple in picture.prompts},
            "concept_terms": [
                term
                for stage in (EXTRACTOR, STUDENT)
                for _, _, term in objective_of(stage, made.settings, made.has_reg).terms
                if isinstance(term, ConceptTerm)
            ],
            "ConceptError": ConceptError,
            "stage_rates": stage_rates,
            "opened_once": opened_once,
            "order": made.order,
            "batches": batches,
            "shown": lambda folder: sum(Path(draw.picture.path).parent.name == folder for draw in draws),
            "said": lambda words: any(words in notice for notice in notices),
            "notices": notices,
        }

    return plan


@pytest.mark.parametrize("file", [file for file in FILES if file.suffix == ".toml"], ids=lambda file: file.stem)
def test_a_file_of_sd_scripts_means_what_it_says(planned, file):
    given = {"trigger": "sks", "class_word": "dog"} if file.stem == "data_bare" else {}
    facts = planned(file.name, **given)
    meanings = [line.removeprefix("#=").strip() for line in file.read_text().splitlines() if line.startswith("#=")]
    assert meanings
    for meaning in meanings:
        assert eval(meaning, facts), f"{meaning}\n{facts['texts']}\n{facts['notices']}"


def test_a_dataset_in_json_means_the_same(planned):
    facts = planned("data_json.json")
    assert facts["config"].datasets[0].resolution == (512, 768) and facts["one"].num_repeats == 2


def test_the_corpus_is_large_enough():
    assert len(FILES) >= 25


def test_folders_on_the_command_line(planned, world):
    facts = planned("train_save_ratio.toml", dataset_config=None, train_data_dir="train", max_train_epochs=2)
    assert (facts["one"].num_repeats, facts["one"].class_tokens) == (10, "sks dog")
    with pytest.raises(ConfigError, match="train_data_dir: ") as error:
        planned("train_save_ratio.toml", dataset_config=None, train_data_dir="trian")
    assert "train" in error.value.remedy
    with pytest.raises(ConfigError, match=r"train_data_dir: img/dog contains no folder"):
        planned("train_save_ratio.toml", dataset_config=None, train_data_dir="img/dog")


def settings_of(text: str, tmp_path: Path, **given):
    file, notices = tmp_path / "config.toml", []
    file.write_text('pretrained_model_name_or_path = "m"\n' + text)
    return read_settings(TomlFile(file), given, notices), notices


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("save_clip = true", '"save_clip" is not supported'),
        ('network_module = "networks.lora_flux"', "is for Flux"),
        ('network_module = "lycoris.kohya"', "network_module lycoris.kohya is not supported"),
        ('network_module = "networks.dylora"', '"networks.dylora" is not a network_module'),
        ("base_weights_multiplier = 0.5", "1 numbers for 0 files in base_weights"),
        ('save_model_as = "ckpt"', 'save_model_as is "ckpt"'),
        ("noise_ofset = 0.1", 'Did you mean "noise_offset"?'),
        ("learning_rat = 1e-4", 'Did you mean "learning_rate"?'),
        ('learning_rate = "1e-4"', "learning_rate is '1e-4'; it must be a number"),
        ("min_timestep = 900\nmax_timestep = 100", "min_timestep is 900; it must be below max_timestep, 100"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_line_and_a_remedy(tmp_path, line, said):
    with pytest.raises(PureCCError) as error:
        settings_of(line, tmp_path)
    assert said in str(error.value)
    assert "config.toml:2" in str(error.value) or "min_timestep" in line or "base_weights" in line


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("batch_size", "train_batch_size"),
        ("lr", "learning_rate"),
        ("rank", "network_dim"),
        ("lora_alpha", "network_alpha"),
        ("steps", "max_train_steps"),
        ("num_train_epochs", "max_train_epochs"),
        ("Optimizer", "optimizer_type"),
        ("checkpointing-steps", "save_every_n_steps"),
        ("weight_decay", "optimizer_args"),
        ("log_every_n_steps", "log.jsonl"),
    ],
)
def test_a_setting_of_another_trainer_is_answered_by_its_meaning(tmp_path, theirs, ours):
    with pytest.raises(ConfigError, match=ours):
        settings_of(f"{theirs} = 1", tmp_path)
    parser = command_line_parser("test")
    add_settings_to(parser)
    with pytest.raises(ConfigError, match=ours):
        parser.parse_args([f"--{theirs}", "1"])


def test_synonyms_name_what_is_there_and_nothing_that_is_known():
    keys = {"image_dir", "conditioning_data_dir", "batch_size", "num_repeats"}
    assert set(synonyms()) <= set(setting_names()) | keys
    elsewhere = {name for names in synonyms().values() for name in names}
    assert elsewhere & {*setting_names(), *known_names()} == {"train_batch_size", "dataset_repeats"}  # in dataset files


@pytest.mark.parametrize("name", REMOVED)
def test_a_setting_that_was_removed_is_answered_by_the_reason(name, tmp_path):
    assert name not in setting_names()
    (tmp_path / "old.toml").write_text(f"[pure_learning]\n{name} = 0.5\n")
    with pytest.raises(ConfigError, match="It was removed, because") as error:
        read_settings(TomlFile(tmp_path / "old.toml"))
    assert REMOVED[name] in str(error.value) and "old.toml:2" in str(error.value)


def test_keys_of_a_dataset_file_are_answered_by_their_meaning(planned, world):
    (world / "data_synonyms.toml").write_text(
        '[[datasets]]\ntrain_batch_size = 1\n[[datasets.subsets]]\nfolder_path = "img/dog"\nrepeats = 2\n'
    )
    with pytest.raises(ConfigError) as error:
        planned("data_synonyms.toml")
    for meant in ("batch_size", "image_dir", "num_repeats"):
        assert f'Did you mean "{meant}"?' in str(error.value)


HOSTILE = [
    *["nan", "-inf", "1e300", "-1", "0", str(10**18), "true", '""', '"a b"', '"[V]"', "[]", "[[]]", "[nan]", '["="]'],
    *['["a=1=2", ""]', "{}", "{a = 1}", "1979-05-27", "'0.5'", '"networks.lora"', "[1, 'a']"],
]


def test_hostile_values_of_sd_scripts_settings_only_give_our_errors(tmp_path):
    chance, refused = random.Random(7), 0
    names = sorted({*known_names(), *VALUES, *COUNTS_OVER, *DEFAULTS_THAT_DIFFER})
    for _ in range(40):
        lines = [f"{name} = {chance.choice(HOSTILE)}" for name in chance.sample(names, 12)]
        try:
            settings_of("\n".join(lines), tmp_path)
        except ConfigError:
            refused += 1
    assert refused > 10


def test_all_errors_are_shown_at_once(tmp_path):
    with pytest.raises(ConfigError) as error:
        settings_of("save_t5xxl = true\nnetwork_dimm = 4\nnetwork_dim = 0\nsave_model_as = 'pt'", tmp_path)
    for said in ("save_t5xxl", 'Did you mean "network_dim"?', "network_dim is 0", "save_model_as"):
        assert said in str(error.value)


def test_options_of_sd_scripts_on_the_command_line():
    parser = command_line_parser("test")
    add_settings_to(parser)
    words = ["--cache_latents", "--network_train_unet_only", "--noise_offset", "0.1", "--unet_lr", "2e-4"]
    given = settings_given(parser.parse_args([*words, "--network_args", "rank_dropout=0.1", "x_attn_dim=2"]))
    assert given["cache_latents"] is True and given["noise_offset"] == 0.1
    notices: list[str] = []
    settings = read_settings(None, {"pretrained_model_name_or_path": "m", **given}, notices)
    assert settings.optimizer.learning_rate == 2e-4
    assert (settings.network.rank_dropout, settings.network.x_attn_dim) == (0.1, 2)
    assert any("cache_latents" in notice for notice in notices)
    with pytest.raises(ConfigError, match="--cache_latent"):
        parser.parse_args(["--cache_latent"])


def test_no_metadata_on_the_command_line_is_a_setting_not_the_end_of_one():
    parser = command_line_parser("test")
    add_settings_to(parser)
    for words, value in (("--no_metadata", True), ("--no_no_metadata", False)):
        assert settings_given(parser.parse_args([words]))["no_metadata"] is value


@pytest.mark.parametrize(
    ("tokens", "phrase", "trigger", "class_word"),
    [
        ("sks dog", "sks dog, sitting", "sks", "dog"),
        ("dog", "sks dog", "sks", "dog"),
        ("my dog", "rexdog", "rexdog", "my dog"),
        ("sks dog", None, "sks", "dog"),
    ],
)
def test_a_trigger_phrase_names_the_trigger_where_class_tokens_do_not(tokens, phrase, trigger, class_word):
    concept = concept_of_tokens(tokens, DataSettings(), phrase)
    assert (concept.trigger, concept.class_word) == (trigger, class_word)


@pytest.mark.parametrize(
    ("tokens", "given", "concept"),
    [
        ("wwstyle", {"class_word": "style"}, ("wwstyle", "style", "style")),
        ("wwstyle", {"kind": "style"}, ("wwstyle", "style", "style")),
        ("wwstyle", {"trigger": "ohwx", "kind": "style"}, ("ohwx", "wwstyle", "style")),
        ("wwstyle", {"trigger": "wwstyle", "kind": "style"}, ("wwstyle", "style", "style")),
        ("rex", {"class_word": "dog"}, ("rex", "dog", "subject")),
        ("dog", {"trigger": "sks"}, ("sks", "dog", "subject")),
        ("jane doe woman", {}, ("jane", "doe woman", "subject")),
        ("jane doe woman", {"class_word": "woman"}, ("jane doe", "woman", "subject")),
        ("jane doe woman", {"trigger": "jane doe"}, ("jane doe", "woman", "subject")),
        ("sks dog", {"class_word": "animal"}, ("sks", "animal", "subject")),
        ("sks golden retriever", {"class_word": "golden retriever"}, ("sks", "golden retriever", "subject")),
    ],
)
def test_what_the_user_names_of_the_concept_decides_what_the_folder_s_words_are(tokens, given, concept):
    found = concept_of_tokens(tokens, DataSettings(**given))
    assert (found.trigger, found.class_word, found.kind) == concept


@pytest.mark.parametrize(
    ("tokens", "given", "asked", "not_asked"),
    [
        ("wwstyle", {}, ['"wwstyle" is the trigger', "--class_word", "--kind", "--trigger"], []),
        ("dog", {"class_word": "dog"}, ["--trigger"], ["--class_word", "--kind"]),
        ("wwstyle", {"trigger": "wwstyle"}, ["--class_word", "--kind"], ["--trigger"]),
        (None, {"kind": "style"}, ["--trigger"], ["--kind"]),
        (None, {}, ["--trigger ohwx --class_word dog"], []),
    ],
)
def test_what_is_given_is_not_asked_for_again(tokens, given, asked, not_asked):
    settings = DataSettings(**given)
    assert unsaid_concepts([tokens], settings) == {}
    remedy = what_is_missing([tokens], settings)
    assert all(one in remedy for one in asked) and not any(one in remedy for one in not_asked)


def test_a_folder_of_several_words_says_how_to_take_more_of_them_as_the_trigger(planned, world):
    shutil.copytree(world / "img" / "bare", world / "jane" / "10_jane doe woman")
    for given, told in (({}, True), ({"class_word": "woman"}, False)):
        facts = planned("train_save_ratio.toml", dataset_config=None, train_data_dir="jane", **given)
        assert facts["said"]('If the trigger is "jane doe", add --class_word woman') is told
    assert facts["concept"].trigger == "jane doe"


def told(monkeypatch, *words: str) -> None:
    """Runs the command with these words."""
    monkeypatch.setattr("sys.argv", ["purecc_train.py", *words])
    purecc_train.main([])


def test_output_config_writes_everything_in_force_and_reads_back_the_same(planned, world, monkeypatch, tmp_path):
    facts = planned("train_sections.toml")
    words = ["--config_file", "train_sections.toml", "--no_gradient_checkpointing", "--replay_images", "0"]
    told(monkeypatch, *words, "--output_config", str(tmp_path / "all"))
    file = TomlFile(tmp_path / "all.toml")
    notices: list[str] = []
    read = read_settings(file, {}, notices)
    assert notices == [] and not read.model.gradient_checkpointing
    assert read.optimizer.lr_scheduler_num_cycles == 3 and read.optimizer.max_train_epochs == 20
    written = {name for table in file.tables.values() if isinstance(table, dict) for name in table}
    needless = unread("purecc") | {"dataset_config", "resume", "overwrite", "max_train_steps"}
    unset = {
        name
        for name, section in setting_names().items()
        if getattr(getattr(read, section), name.replace("lambda", "lambda_") if name == "lambda" else name) is None
    }
    assert written == set(setting_names()) - needless - unset
    config = read_concepts_and_pictures(file, read, notices)
    assert as_tables(config) == as_tables(facts["config"])


def test_output_config_without_a_name_is_that_of_sd_scripts(planned, world, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(world)
    new = tmp_path / "new.toml"
    words = [
        "--pretrained_model_name_or_path",
        "model",
        "--dataset_config",
        "data_class_tokens.toml",
        "--output_config",
    ]
    told(monkeypatch, *words, "--config_file", str(new))
    assert f"every setting in force to {new}" in capsys.readouterr().out
    assert read_settings(TomlFile(new)).model.pretrained_model_name_or_path == str(world / "model")
    with pytest.raises(ConfigError, match="already exists"):
        told(monkeypatch, *words, "--config_file", str(new))


def test_home_and_environment_variables_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("MODELS", "/models")
    settings, _ = settings_of('output_dir = "~/out"\nsample_prompts = "${MODELS}/p.txt"\n', tmp_path)
    assert (settings.saving.output_dir, settings.samples.sample_prompts) == ("/home/ann/out", "/models/p.txt")


def test_a_file_of_ours_gets_no_remarks(tmp_path):
    """Without sd-scripts settings in the file, nothing is reported about defaults."""
    assert settings_of("learning_rate = 1e-4\nmax_train_steps = 10\n", tmp_path)[1] == []
    notices = settings_of("cache_latents = true\n", tmp_path)[1]
    assert any("learning_rate (2e-6 in sd-scripts)" in notice for notice in notices)


def test_what_is_reported_about_defaults_is_about_settings():
    assert set(DEFAULTS_THAT_DIFFER) <= set(setting_names())


def test_every_option_of_sd_scripts_is_known():
    """Those of sd-scripts' sd3_train_network.py, as of February 2026."""
    options = (Path(__file__).parent / "sd_scripts_options.txt").read_text().split()
    assert len(options) > 200
    unknown = set(options) - set(setting_names()) - known_names()
    assert not unknown


def test_every_setting_exists_once():
    assert not set(setting_names()) & known_names()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "# sheets\n[V] dog --w 512 --h 640 --d 3 --s 20 --l 5.5 --g 1.0 --fs 3 --n ugly\n"),
        ("p.toml", '[prompt]\nwidth = 512\nheight = 640\nseed = 3\nsample_steps = 20\nscale = 5.5\nflow_shift = 3\n'
         'negative_prompt = "ugly"\n[[prompt.subset]]\nprompt = "[V] dog"\n'),
        ("p.json", '[{"prompt": "[V] dog", "width": 512, "height": 640, "seed": 3, "sample_steps": 20, "scale": 5.5, '
         '"flow_shift": 3, "negative_prompt": "ugly"}]'),
    ],
)  # fmt: skip
def test_sample_prompts_in_all_three_formats(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    dog = Concept(name="dog", trigger="sks", class_word="dog")
    (line,) = read_prompt_lines(str(tmp_path / name), "sample_prompts")
    prompt = parse(line, [dog], name)
    found = (prompt.text, prompt.width, prompt.height, prompt.seed, prompt.steps, prompt.guidance_scale)
    assert found == ("sks dog", 512, 640, 3, 20, 5.5) and prompt.negative == "ugly"
    assert prompt.shift == 3


def test_a_mistake_in_a_prompt_table_is_reported(tmp_path):
    (tmp_path / "p.toml").write_text('[[prompt.subset]]\nprompt = "a dog"\nwidht = 5\n')
    with pytest.raises(ConfigError, match='"widht" is not a key'):
        read_prompt_lines(str(tmp_path / "p.toml"), "sample_prompts")


@pytest.mark.parametrize("file", [file for file in FILES if file.stem != "data_bare"], ids=lambda file: file.stem)
def test_what_a_run_writes_down_reads_back_the_same(planned, file, tmp_path):
    """`config.toml` holds the data set with all values in force, so it must mean the same as the sd-scripts file."""
    facts = planned(file.name)
    config, data = facts["config"], facts["settings"].data
    again = tmp_path / "again.toml"
    again.write_text(to_toml(as_tables(config)))
    notices: list[str] = []
    read = read_dataset_config(TomlFile(again), dataclasses.replace(data, train_data_dir=None), notices)
    assert notices == []
    assert as_tables(read) == as_tables(config)


def test_concepts_in_the_training_file_serve_a_dataset_of_sd_scripts(planned, world):
    head = (
        'pretrained_model_name_or_path = "model"\n{}\n[[concepts]]\nname = "rex"\ntrigger = "sks"\nclass_word = "dog"\n'
    )
    for source in ('dataset_config = "data_dop.toml"', 'train_data_dir = "train"'):
        (world / "with_concepts.toml").write_text(head.format(source))
        facts = planned("with_concepts.toml")
        assert facts["concept"].name == "rex" and all(subset.concept == "rex" for subset in facts["subsets"])


def test_a_dataset_file_shows_all_its_mistakes_at_once(world, planned):
    (world / "data_wrong.toml").write_text(
        '[[dataset]]\nx = 1\n[general]\nnum_repeat = 2\nresolution = "big"\n[[datasets]]\nbatch_size = 0\n'
        '[[datasets.subsets]]\nimage_dir = 5\nmetadata_file = "m.json"\nresolution = 512\nclass_tokens = "sks dog"\n'
    )
    with pytest.raises(ConfigError) as error:
        planned("data_wrong.toml")
    for said in (
        'no top-level "dataset"',
        'Did you mean "num_repeats"?',
        "resolution is 'big'",
        "batch_size is 0",
        "image_dir is 5",
        '"metadata_file" is not supported',
        '"resolution" is not allowed here',
    ):
        assert said in str(error.value), said
