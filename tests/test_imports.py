"""Other trainers' settings become a TOML that reads, and what is not carried over is named."""

import json

import pytest

from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import TomlFile, read_settings
from library.errors import ConfigError
from library.imports.command import run

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
    """The report, the settings and the data set of an import."""
    said = run([str(path), *words])
    file = TomlFile(path.with_name(f"{path.stem}_purecc.toml"))
    settings = read_settings(file)
    return said, settings, read_concepts_and_pictures(file, settings), file


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
    assert "noise_offset is passed over" in said and "factor: -1" in said and "LyCORIS_preset" in said
    assert (settings.network.network_weights, settings.network.dim_from_weights) == ("old.safetensors", True)
    assert settings.saving.log_with == "wandb" and settings.saving.save_state
    assert "wandb_api_key is passed over" in said and "secret" not in said + file.path.read_text()
    assert (tmp_path / "gui_purecc_prompts.txt").read_text() == "a sks dog --w 512\n"
    assert "#   factor: -1" in file.path.read_text()
    with pytest.raises(ConfigError, match="is there already"):
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
    assert "datasets[0].mask_min_value" in said and said.count("\n  ") == 2, "and nothing else is left out"
    assert (tmp_path / "job_purecc_prompts.txt").read_text().splitlines() == [
        "[V] on a beach --w 640 --h 768 --d 3 --n ugly",
        "[V] in a city --w 512 --h 768 --n ugly",
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
        ("a.json", "[1]", "of no trainer that is known"),
        ("a.json", '{"learning_rate": 1}', "of no trainer that is known"),
        ("a.yaml", "job: x\nconfig: {process: [5]}", "is not built as its trainer builds it"),
        ("a.json", '{"base_model_name": "m", "concept_file_name": "c.json"}', "there is no file c.json"),
    ],
)
def test_a_file_that_can_not_be_imported_is_said(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as error:
        run([str(tmp_path / name)])
    assert said in str(error.value)


def test_yaml_can_not_run_anything(tmp_path):
    (tmp_path / "a.yaml").write_text("job: !!python/object/apply:os.system ['touch hacked']\nconfig: {}\n")
    with pytest.raises(ConfigError, match="can't be read"):
        run([str(tmp_path / "a.yaml")])
