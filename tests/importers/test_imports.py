"""Other trainers' settings become a valid TOML file, and what is not carried over is named."""

import contextlib
import copy
import json
import random
import tomllib

import pytest

from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import TomlFile, read_settings
from library.errors import ConfigError, PureCCError
from library.importers.command import import_file, run
from library.importers.imported import FIELDS
from library.optim import check_optimizer
from library.prompts import derive

GUI = {
    "LoRA_type": "Standard",
    "pretrained_model_name_or_path": "sd3.5_medium.safetensors",
    "train_data_dir": "{root}/train",
    "max_resolution": "768,512",
    "epoch": 12,
    "max_train_steps": 0,
    "train_batch_size": 3,
    "optimizer": "AdamW8bit",
    "optimizer_args": "weight_decay=0.1 betas=0.9,0.99",
    "learning_rate": 0.0002,
    "unet_lr": 0.0003,
    "text_encoder_lr": 1e-5,
    "network_dim": 8,
    "network_alpha": 4,
    "lr_scheduler": "cosine",
    "lr_warmup": 10,
    "keep_tokens": "2",
    "shuffle_caption": True,
    "caption_extension": ".txt",
    "cache_latents": True,
    "noise_offset": 0.05,
    "min_snr_gamma": 0,
    "save_every_n_epochs": 2,
    "mixed_precision": "bf16",
    "save_precision": "fp16",
    "sample_every_n_steps": 0,
    "sample_prompts": "a sks dog --w 512\n# not this",
    "flux1_checkbox": False,
    "seed": "7",
    "xformers": "xformers",
    "wandb_run_name": "",
    "wandb_api_key": "secret",
    "log_with": "wandb",
    "save_state": True,
    "lora_network_weights": "old.safetensors",
    "dim_from_weights": True,
    "LyCORIS_preset": "full",
    "factor": -1,
}
TOOLKIT = """
job: extension
config:
  name: my_dog
  process:
    - type: sd_trainer
      training_folder: output
      device: cuda:0
      trigger_word: sks
      network: {type: lora, linear: 16, linear_alpha: 16}
      save: {dtype: float16, save_every: 250, max_step_saves_to_keep: 4}
      datasets:
        - folder_path: ROOT/train/10_sks dog
          caption_ext: txt
          caption_dropout_rate: 0.05
          shuffle_tokens: false
          cache_latents_to_disk: true
          resolution: [512, 768]
          mask_min_value: 0.2
      train:
        batch_size: 1
        steps: 2000
        gradient_accumulation_steps: 1
        train_unet: true
        train_text_encoder: false
        gradient_checkpointing: true
        noise_scheduler: flowmatch
        timestep_type: linear
        optimizer: adamw8bit
        lr: 1e-4
        dtype: bf16
        diff_output_preservation: true
        diff_output_preservation_class: dog
        ema_config: {use_ema: true}
      model: {name_or_path: stabilityai/stable-diffusion-3.5-medium, is_v3: true, quantize: true}
      sample:
        sample_every: 250
        prompts: ["[trigger] in a city"]
        guidance_scale: 4
        sample_steps: 25
        width: 512
        height: 768
        neg: "ugly"
        samples: [{prompt: "[trigger] on a beach", seed: 3, width: 640}]
      logging: {use_wandb: true, project_name: dogs}
"""
ONETRAINER = {
    "__version": 6,
    "training_method": "LORA",
    "base_model_name": "sd3.5_medium.safetensors",
    "output_model_destination": "models/dog.safetensors",
    "concept_file_name": "concepts.json",
    "resolution": "512,768",
    "learning_rate": 0.0003,
    "learning_rate_scheduler": "COSINE",
    "epochs": 50,
    "batch_size": 4,
    "lora_rank": 16,
    "lora_alpha": 1.0,
    "optimizer": {"optimizer": "ADAMW", "weight_decay": 0.01, "eps": 1e-8},
    "train_dtype": "BFLOAT_16",
    "output_dtype": "FLOAT_16",
    "timestep_distribution": "LOGIT_NORMAL",
    "min_noising_strength": 0.1,
    "max_noising_strength": 1.0,
    "gradient_checkpointing": "ON",
    "ema": "GPU",
    "ema_decay": 0.99,
    "save_every": 2,
    "save_every_unit": "EPOCH",
    "sample_after": 10,
    "sample_after_unit": "MINUTE",
    "backup_after": 30,
    "transformer": {"weight_dtype": "INT_8"},
    "lora_model_name": "old.safetensors",
    "samples": [
        {
            "enabled": True,
            "prompt": "sks dog",
            "width": 512,
            "height": 640,
            "seed": 4,
            "diffusion_steps": 20,
            "cfg_scale": 5.0,
            "negative_prompt": "ugly",
        },
        {"enabled": False, "prompt": "no"},
        {"prompt": "a house", "seed": 4, "random_seed": True},
    ],
    "masked_training": False,
}
CONCEPTS = [
    {
        "name": "dog",
        "path": "{root}/train/10_sks dog",
        "enabled": True,
        "balancing": 5.0,
        "balancing_strategy": "REPEATS",
        "image": {"enable_random_flip": True},
        "text": {"prompt_source": "sample", "enable_tag_shuffling": True, "tag_delimiter": ",", "keep_tags_count": 1},
    },
    {"name": "prior", "path": "{root}/class", "enabled": True, "type": "PRIOR_PREDICTION"},
    {"name": "off", "path": "{root}/off", "enabled": False},
    {"name": "test", "path": "{root}/off", "enabled": True, "type": "VALIDATION"},
]


def imported(path, *words):
    """The report, the settings and the data set of an import, whose TOML has everything that the report counts."""
    said = run([str(path), *words])
    file = TomlFile(path.with_name(f"{path.stem}_purecc.toml"))
    settings = read_settings(file)
    found = import_file(path)
    for name, value in found.settings.items():
        section, field, _ = FIELDS[name]
        assert getattr(getattr(settings, section), field.name) == value, name
    assert not set(found.left_out) & set(found.settings) and all(f"  {name}: " in said for name in found.left_out)
    return said, settings, read_concepts_and_pictures(file, settings), file


def gui(tmp_path, **given):
    """A GUI's file with a folder of pictures, after `imported`."""
    (tmp_path / "train" / "10_sks dog").mkdir(parents=True, exist_ok=True)
    (tmp_path / "gui.json").write_text(json.dumps(GUI | given).replace("{root}", str(tmp_path)))
    return imported(tmp_path / "gui.json", "--overwrite")


def job(tmp_path, *changes):
    """A job of ai-toolkit in which texts are replaced, after `imported`."""
    text = TOOLKIT.replace("ROOT", str(tmp_path))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "job.yaml").write_text(text)
    return imported(tmp_path / "job.yaml", "--overwrite")


def trainer(tmp_path, **given):
    """A configuration of OneTrainer, None for keys that it lacks, after `imported`."""
    (tmp_path / "concepts.json").write_text(json.dumps(CONCEPTS).replace("{root}", str(tmp_path)))
    config = {key: value for key, value in (ONETRAINER | given).items() if value is not None}
    (tmp_path / "one.json").write_text(json.dumps(config))
    return imported(tmp_path / "one.json", "--overwrite", "--trigger", "sks", "--class_word", "dog")


def test_the_kohya_gui(tmp_path):
    (tmp_path / "train" / "10_sks dog").mkdir(parents=True)
    path = tmp_path / "gui.json"
    path.write_text(json.dumps(GUI).replace("{root}", str(tmp_path)))
    said, settings, config, file = imported(path)
    assert settings.optimizer.learning_rate == 0.0003 and settings.optimizer.lr_warmup_steps == 0.1
    assert settings.optimizer.max_train_epochs == 12 and settings.optimizer.seed == 7
    assert settings.optimizer.optimizer_args == ["weight_decay=0.1", "betas=0.9,0.99"]
    assert settings.data.resolution == [768, 512] and settings.data.keep_tokens == 2 and settings.model.xformers
    assert (config.concepts[0].trigger, config.datasets[0].subsets[0].num_repeats) == ("sks", 10)
    assert "noise_offset is ignored" in said and "factor" not in said and "LyCORIS_preset" not in said
    assert (settings.network.network_weights, settings.network.dim_from_weights) == ("old.safetensors", True)
    assert settings.saving.log_with == "wandb" and settings.saving.save_state
    assert "wandb_api_key is ignored" in said and "secret" not in said + file.path.read_text()
    assert (tmp_path / "gui_purecc_prompts.txt").read_text() == "a sks dog --w 512\n"
    with pytest.raises(ConfigError, match="already exists"):
        run([str(path)])


def test_ai_toolkit(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(TOOLKIT.replace("ROOT", str(tmp_path)))
    said, settings, config, _ = imported(path)
    assert (config.concepts[0].trigger, config.concepts[0].class_word) == ("sks", "dog")
    assert [dataset.resolution for dataset in config.datasets] == [(512, 512), (768, 768)]
    assert config.datasets[0].subsets[0].caption_dropout_rate == 0.05
    assert settings.optimizer.learning_rate == 1e-4 and settings.optimizer.optimizer_type == "AdamW8bit"
    assert settings.noise.weighting_scheme == "uniform" and settings.saving.save_precision == "fp16"
    assert settings.samples.sample_every_n_steps == 250
    assert settings.optimizer.ema_decay == 0.999 and settings.model.base_quantization == "fp8"
    assert settings.saving.save_last_n_steps == 3 * 250
    assert (settings.saving.log_with, settings.saving.log_tracker_name) == ("all", "dogs")
    assert "datasets[0].mask_min_value" in said and "sample.prompts: 1 prompts: sample.samples" in said
    assert said.count("\n  ") == 3, "and nothing else is left out"
    assert (tmp_path / "job_purecc_prompts.txt").read_text().splitlines() == [
        "[V] on a beach --w 640 --h 768 --d 3 --n ugly",
    ]


def test_onetrainer(tmp_path):
    path = tmp_path / "one.json"
    path.write_text(json.dumps(ONETRAINER))
    (tmp_path / "concepts.json").write_text(json.dumps(CONCEPTS).replace("{root}", str(tmp_path)))
    said, settings, config, _ = imported(path, "--trigger", "sks", "--class_word", "dog")
    assert [dataset.resolution for dataset in config.datasets] == [(512, 512), (768, 768)]
    dog, prior = config.datasets[0].subsets
    assert dog.num_repeats == 5 and dog.flip_aug and dog.shuffle_caption and dog.keep_tokens == 1
    assert prior.is_reg and prior.diff_output_preservation
    assert (settings.saving.output_dir, settings.saving.output_name) == ("models", "dog")
    assert (settings.noise.min_timestep, settings.noise.max_timestep) == (100, 1000)
    assert settings.optimizer.max_train_epochs == 50 and settings.network.network_alpha == 1
    assert settings.optimizer.ema_decay == 0.99 and settings.model.base_quantization == "int8"
    assert settings.saving.save_every_n_epochs == 2 and settings.samples.sample_every_n_minutes == 10
    assert settings.network.network_weights == "old.safetensors"
    assert (tmp_path / "one_purecc_prompts.txt").read_text().splitlines() == [
        "sks dog --w 512 --h 640 --d 4 --s 20 --l 5.0 --n ugly",
        "a house",
    ]
    assert "set validation_split instead" in said


@pytest.mark.parametrize(
    ("given", "args", "of_schedule"),
    [
        ({}, ["weight_decay=0.1", "betas=0.9,0.99"], []),
        (
            {"optimizer_args": '"weight_decay=0.1"', "lr_scheduler_args": "a=1 b=2"},
            ["weight_decay=0.1"],
            ["a=1", "b=2"],
        ),
        ({"optimizer_args": ["eps=1e-7"]}, ["eps=1e-7"], []),
        ({"additional_parameters": "--optimizer_args eps=1e-7 weight_decay=0"}, ["eps=1e-7", "weight_decay=0"], []),
    ],
)
def test_lists_that_the_gui_keeps_as_one_text_arrive(tmp_path, given, args, of_schedule):
    said, settings, _, _ = gui(tmp_path, **given)
    assert settings.optimizer.optimizer_args == args and settings.optimizer.lr_scheduler_args == of_schedule
    assert "optimizer_args" not in said and "lr_scheduler_args" not in said


def test_what_is_typed_into_the_gui_counts_over_its_fields(tmp_path):
    typed = (
        '--network_args "rank_dropout=0.1" x_attn_dim=2 --learning_rate=5e-5 --flip_aug --log_prefix "a" --nonsense 3'
    )
    said, settings, _, _ = gui(tmp_path, additional_parameters=typed, unet_lr=0, dim_from_weights=False)
    assert (settings.network.rank_dropout, settings.network.x_attn_dim) == (0.1, 2)
    assert settings.optimizer.learning_rate == 5e-5 and settings.data.flip_aug and settings.saving.log_prefix == "a"
    assert "additional_parameters --nonsense: '3'" in said


@pytest.mark.parametrize(
    ("given", "epochs", "steps", "passed_over"),
    [
        ({"epoch": 8, "max_train_epochs": 8, "max_train_steps": 1600}, 8, 400, "max_train_steps 1600 is ignored"),
        ({"epoch": 3, "max_train_epochs": "8"}, 8, 400, "epoch 3 is ignored"),
        ({"epoch": 3, "max_train_steps": 1600}, None, 1600, "epoch 3 is ignored"),
        ({"epoch": 0}, None, 1600, "max_train_steps 1600"),
    ],
)
def test_how_long_the_gui_trains(tmp_path, given, epochs, steps, passed_over):
    said, settings, _, _ = gui(tmp_path, **given)
    assert (settings.optimizer.max_train_epochs, settings.optimizer.max_train_steps) == (epochs, steps)
    assert passed_over in said


def test_the_tab_for_flux_says_nothing_of_this_model(tmp_path):
    flux = {"guidance_scale": 1.0, "t5xxl_max_token_length": 512, "clip_l": "flux.safetensors", "sd3_clip_l": "ours"}
    _, settings, _, _ = gui(tmp_path, **flux, prior_loss_weight=1.0)
    assert (settings.samples.guidance_scale, settings.model.t5xxl_max_token_length) == (4, 77)
    assert settings.model.clip_l == "ours" and settings.pure_learning.prior_loss_weight is None


def test_presets_of_the_gui_are_recognised_and_their_model_is_missing(tmp_path):
    (tmp_path / "preset.json").write_text(
        json.dumps({"LoRA_type": "LyCORIS/LoKr", "max_resolution": "512,512", "conv_dim": 64, "epoch": "", "v2": False})
    )
    said = run([str(tmp_path / "preset.json")])
    for told in (
        "pretrained_model_name_or_path in [model]",
        "train_data_dir",
        "trained as a plain LoRA",
        "conv_dim: 64",
    ):
        assert told in said
    assert "The file is valid" not in said
    defaults = TomlFile(tmp_path / "preset_purecc.toml").tables
    assert defaults["network"] == {"network_dim": 8, "network_alpha": 1}
    assert defaults["optimizer"]["lr_warmup_steps"] == 0.1 and defaults["optimizer"]["max_train_steps"] == 1600
    assert "network_dim 8" in said and "max_train_steps 1600" in said


@pytest.mark.parametrize("written", ["1e-2", "1.0e-2", "'0.01'", "0.01"])
def test_numbers_of_yaml_are_numbers_wherever_they_stand(tmp_path, written):
    _, settings, config, _ = job(
        tmp_path,
        ("optimizer: adamw8bit", f"optimizer: adamw\n        optimizer_params: {{weight_decay: {written}}}"),
        ("caption_dropout_rate: 0.05", f"caption_dropout_rate: {written}"),
        ("{use_ema: true}", f"{{use_ema: true, ema_decay: {written}}}"),
    )
    assert settings.optimizer.optimizer_args == ["weight_decay=0.01", "eps=1e-06"]
    check_optimizer(settings.optimizer, [[1e-4]])
    assert config.datasets[0].subsets[0].caption_dropout_rate == settings.optimizer.ema_decay == 0.01


def test_what_counts_in_ai_toolkit_counts_here(tmp_path):
    said, settings, _, _ = job(
        tmp_path,
        ("linear: 16,", "rank: 8, linear: 16,"),
        ("lr: 1e-4", "lr: 1e-4\n        unet_lr: 2e-4\n        gradient_accumulation: 3"),
        ("optimizer: adamw8bit", "optimizer: Prodigy"),
    )
    assert settings.network.network_dim == 8 and settings.optimizer.gradient_accumulation_steps == 3
    assert settings.optimizer.learning_rate == 1.0
    for told in ("network.linear 16 is ignored", "train.lr is ignored", "train.lr 0.0002 is read as 1.0"):
        assert told in said


def test_what_ai_toolkit_takes_unsaid_is_written_out(tmp_path):
    said, settings, _, _ = job(
        tmp_path,
        ("network: {type: lora, linear: 16, linear_alpha: 16}", "network: {type: lora}"),
        ("steps: 2000", "skip_first_sample: true"),
        ("lr: 1e-4", "unload_text_encoder: true"),
        ("sample_steps: 25", "sampler: flowmatch"),
    )
    assert (settings.network.network_dim, settings.network.network_alpha) == (4, 1)
    assert (settings.optimizer.max_train_steps, settings.optimizer.learning_rate) == (1000, 1e-6)
    assert settings.samples.sample_steps == 20
    assert "network.linear_alpha 1.0" in said and "train.steps 1000" in said


def test_placeholders_of_ai_toolkit_become_ours(tmp_path):
    job(
        tmp_path,
        ('"[trigger] on a beach"', '"[name], [trigger] on a beach"'),
        ("mask_min_value: 0.2", "default_caption: a [trigger] dog"),
    )
    assert (tmp_path / "job_purecc_prompts.txt").read_text().startswith("my_dog, [V] on a beach")
    assert 'class_tokens = "a [V] dog"' in (tmp_path / "job_purecc.toml").read_text()


def test_captions_of_ai_toolkit_mean_what_they_mean_there(tmp_path):
    _, _, config, _ = job(tmp_path)
    triple = derive("a photo of [trigger] dog in the city", config.concepts[0], "a.txt")
    assert (triple.complete, triple.base) == ("a photo of sks dog in the city", "a photo of dog in the city")


def test_what_onetrainer_takes_unsaid_is_written_out(tmp_path):
    unsaid = ("lora_rank", "lora_alpha", "epochs", "batch_size", "train_dtype", "timestep_distribution")
    said, settings, _, _ = trainer(tmp_path, **dict.fromkeys(unsaid), learning_rate_scheduler=None)
    assert (settings.network.network_dim, settings.network.network_alpha) == (16, 1)
    assert (settings.optimizer.max_train_epochs, settings.data.train_batch_size) == (100, 1)
    assert settings.model.mixed_precision == "fp16" and settings.noise.weighting_scheme == "uniform"
    assert (settings.optimizer.lr_scheduler, settings.optimizer.lr_warmup_steps) == ("constant_with_warmup", 200)
    assert all(f"{name} " in said for name in unsaid)


def test_the_numbers_of_onetrainers_optimizer_arrive(tmp_path):
    adam = {"optimizer": "ADAMW", "beta1": 0.8, "beta2": "0.99", "eps": 1e-7, "weight_decay": "1e-3", "fused": True}
    said, settings, _, _ = trainer(tmp_path, optimizer=adam | {"k": 5, "growth_rate": "inf"})
    assert settings.optimizer.optimizer_args == ["eps=1e-07", "weight_decay=0.001", "betas=(0.8, 0.99)"]
    check_optimizer(settings.optimizer, [[1e-4]])
    assert "optimizer" not in said
    _, settings, _, _ = trainer(tmp_path, optimizer={"optimizer": "ADAFACTOR"})
    assert "relative_step=False" in settings.optimizer.optimizer_args
    check_optimizer(settings.optimizer, [[1e-4]])


def test_what_counts_in_onetrainer_counts_here(tmp_path):
    said, settings, _, _ = trainer(
        tmp_path, transformer={"learning_rate": 5e-4, "weight_dtype": "FLOAT_8"}, learning_rate_scheduler="REX"
    )
    assert settings.optimizer.learning_rate == 5e-4 and settings.model.base_quantization == "fp8"
    assert "transformer.learning_rate 0.0005 is used" in said and "learning_rate_scheduler: 'REX'" in said


@pytest.mark.parametrize(
    ("name", "text", "model"),
    [
        ("a.json", json.dumps(GUI | {"sdxl": True, "pretrained_model_name_or_path": "xl.ckpt"}), "SDXL"),
        ("a.json", json.dumps(GUI | {"flux1_checkbox": True, "pretrained_model_name_or_path": "xl.ckpt"}), "Flux"),
        ("a.json", json.dumps(ONETRAINER | {"model_type": "FLUX_DEV_1", "base_model_name": "xl.ckpt"}), "FLUX_DEV_1"),
        ("a.yaml", TOOLKIT.replace("is_v3", "is_flux").replace("stabilityai/stable-diffusion-3.5-medium", "xl.ckpt"),
         "Flux"),
        ("a.yaml", TOOLKIT.replace("is_v3: true", "arch: qwen_image").replace("stabilityai/stable-diffusion-3.5-medium",
                                                                              "xl.ckpt"), "qwen_image"),
    ],
)  # fmt: skip
def test_a_file_for_another_model_says_so_and_leaves_its_checkpoint_out(tmp_path, name, text, model):
    (tmp_path / name).write_text(text)
    (tmp_path / "concepts.json").write_text("[]")
    said = run([str(tmp_path / name), "--trigger", "sks", "--class_word", "dog"])
    assert f"this file is for {model}" in said and "pretrained_model_name_or_path: 'xl.ckpt'" in said
    assert "pretrained_model_name_or_path" not in TomlFile(tmp_path / "a_purecc.toml").tables["model"]


@pytest.mark.parametrize("make", [gui, job, trainer])
def test_a_file_for_this_model_says_nothing_of_others(tmp_path, make):
    assert "this file is for" not in make(tmp_path)[0]


def test_a_prompt_file_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "job.yaml").write_text(TOOLKIT.replace("ROOT", str(tmp_path)))
    (tmp_path / "job_purecc_prompts.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"job_purecc_prompts\.txt already exists"):
        run([str(tmp_path / "job.yaml")])
    assert (tmp_path / "job_purecc_prompts.txt").read_text() == "mine"


HOSTILE = [
    None, True, 0, -1, 10**400, -(10**19), 1e308, float("inf"), float("nan"), "", " ", "inf", "nan", "1e400", "9" * 500,
    "a\nb\rc\x07", "\x85\u2028", '"', "\\", "[V]", "../..", "a" * 5000, [], [[]], [None], {}, {"a": {}}, [{}],
    "2024-01-01", ["a", 1], [float("nan")],
]  # fmt: skip


TRIES = 30
"""Damaged files of each trainer."""


def mutated(tables, chance):
    """The same with one value, anywhere in it, replaced by a hostile one, removed or doubled."""
    tables = copy.deepcopy(tables)
    places = []

    def walk(value):
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(tables)
    for holder, key in chance.sample(places, chance.randint(1, 3)):
        if chance.random() < 0.1 and isinstance(holder, dict):
            holder.pop(key, None)
        else:
            holder[key] = chance.choice(HOSTILE)
    return tables


@pytest.mark.parametrize("trainer_s", ["gui", "toolkit", "onetrainer"])
def test_damaged_files_give_nothing_but_a_report_or_an_error_of_ours(tmp_path, monkeypatch, trainer_s):
    import yaml

    chance = random.Random(trainer_s)
    whole = {"gui": GUI, "toolkit": yaml.safe_load(TOOLKIT), "onetrainer": ONETRAINER | {"concepts": CONCEPTS}}
    path = tmp_path / ("a.yaml" if trainer_s == "toolkit" else "a.json")
    monkeypatch.setattr("library.importers.command.write_text", lambda path, text: path.write_text(text))  # no fsync
    monkeypatch.chdir(tmp_path)
    for _ in range(TRIES):
        damaged = mutated(whole[trainer_s], chance)
        path.write_text(yaml.safe_dump(damaged) if trainer_s == "toolkit" else json.dumps(damaged))
        try:
            said = run([str(path), "--overwrite", "--to", "out.toml"])
            assert all(len(line) <= 1000 for line in said.partition("Still to fix")[0].splitlines()), said
            written = tomllib.loads((tmp_path / "out.toml").read_text())
            for name, value in import_file(path).settings.items():
                assert written[FIELDS[name][0]][name] == value
        except PureCCError:
            continue
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\n{path.read_text()[:3000]}") from error


@pytest.mark.parametrize("trainer_s", ["gui", "toolkit", "onetrainer"])
def test_files_with_flipped_bytes_give_nothing_but_a_report_or_an_error_of_ours(tmp_path, monkeypatch, trainer_s):
    chance = random.Random(trainer_s)
    texts = {"gui": json.dumps(GUI), "toolkit": TOOLKIT, "onetrainer": json.dumps(ONETRAINER | {"concepts": CONCEPTS})}
    path = tmp_path / ("a.yaml" if trainer_s == "toolkit" else "a.json")
    monkeypatch.setattr("library.importers.command.write_text", lambda path, text: path.write_text(text))
    monkeypatch.chdir(tmp_path)
    for _ in range(TRIES // 2):
        damaged = bytearray(texts[trainer_s].encode())
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.choice(b'\x00\xff{}[]":,\\&*#-0e.')
        path.write_bytes(damaged)
        with contextlib.suppress(PureCCError):
            run([str(path), "--overwrite", "--to", "out.toml"])


def test_what_nobody_says_is_asked_for(tmp_path):
    path = tmp_path / "one.json"
    path.write_text(json.dumps(ONETRAINER | {"concepts": CONCEPTS[:1]}))
    assert "Add trigger and class_word in [[concepts]]" in run([str(path)])
    assert "Add trigger in" in run([str(path), "--kind", "style", "--overwrite"])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "can't be read"),
        ("a.yaml", "a: [", "can't be read"),
        ("a.json", "[1]", "is not a settings file of a known trainer"),
        ("a.json", '{"learning_rate": 1}', "is not a settings file of a known trainer"),
        ("a.yaml", "job: x\nconfig: {process: [5]}", "config.process[0] is 5; it must be a table"),
        ("a.yaml", "job: x\nconfig: {process: [{type: extract}]}", "trains nothing"),
        (
            "a.yaml",
            "job: x\nconfig: {process: [{train: {steps: 1}, network: 16}]}",
            "network is 16; it must be a table",
        ),
        ("a.json", '{"base_model_name": "m", "concept_file_name": "c.json"}', "the file 'c.json' doesn't exist"),
        ("a.json", '{"base_model_name": "m", "concepts": [{"image": 5}]}', "image is 5; it must be a table"),
        ("a.json", '{"LoRA_type": "\\ud800"}', "a.json contains an invalid character"),
        ("a.json", "[" * 5000, "can't be read"),
        ("a.json", "9" * 5000, "can't be read"),
        ("a.yaml", "a: &a [*a]", "a.yaml is too large"),
        (
            "a.yaml",
            "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" if n else "a0: &a0 [x]" for n in range(9)),
            "a.yaml is too large",
        ),
        ("a.toml", "max_train_steps = 5", "need no import"),
    ],
)
def test_a_file_that_can_not_be_imported_is_reported(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as error:
        run([str(tmp_path / name)])
    assert said in str(error.value)


def test_yaml_can_not_run_anything(tmp_path):
    (tmp_path / "a.yaml").write_text("job: !!python/object/apply:os.system ['touch hacked']\nconfig: {}\n")
    with pytest.raises(ConfigError, match="can't be read"):
        run([str(tmp_path / "a.yaml")])
