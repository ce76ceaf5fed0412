"""Models of the SD3 family, compared with diffusers' own pipeline."""

import json
import shutil

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file

from library.adapters.files import read_safetensors
from library.config.groups import groups
from library.drawing.sampling import initial_noise, sample
from library.errors import ModelError
from library.models.interface import Prompt, PromptBatch
from library.models.loading.tensor_file import TensorFile
from library.models.opening import load_model
from library.preflight.plan import describe_plan
from library.training.run import Run
from tests.helpers.places import ROOT
from tests.helpers.runs import prepared
from tests.helpers.tiny import LENGTH


def model_of(folder, **settings):
    values = {"t5xxl_max_token_length": LENGTH, "mixed_precision": "no", "device": "cpu", **settings}
    return load_model(groups()["model"](pretrained_model_name_or_path=str(folder), **values))


def test_our_pictures_are_the_pipelines(tiny_model):
    """Text, velocity, guidance, steps and decoding: the same picture from the same noise."""
    model = model_of(tiny_model)
    noise, text = initial_noise(model.latent_shape(32, 32), seed=5)[None], "a red dog city"
    states = dict(zip([text, ""], model.encode_text([text, ""]), strict=True))
    batch, null = (PromptBatch.of([Prompt(one, states[one], ())], [None]) for one in (text, ""))
    latents = sample(
        lambda x, sigma, parts: model.velocity(x, sigma, PromptBatch.joined(parts)),
        model.sampling_scheduler(),
        noise,
        batch,
        null,
        steps=4,
        guidance_scale=4.0,
    )
    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_model)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "guidance_scale": 4.0, "max_sequence_length": LENGTH, "latents": noise}
    size = {"height": 32, "width": 32}
    theirs = pipeline(text, **size, **options, output_type="latent").images
    torch.testing.assert_close(latents, theirs, rtol=1e-3, atol=1e-3)
    picture = pipeline(text, **size, **options, output_type="pt").images * 2 - 1
    torch.testing.assert_close(model.decode(latents), picture, rtol=1e-2, atol=1e-2)


def test_encoding_and_decoding_use_the_vaes_scale_and_shift(tiny_model):
    model, pixels = model_of(tiny_model), torch.rand(3, 32, 32) * 2 - 1
    mean, std = model.encode_image(pixels)
    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_model)
    theirs = pipeline.vae.encode(pixels[None]).latent_dist
    torch.testing.assert_close(mean, (theirs.mean[0] - 0.1) * 0.9)
    torch.testing.assert_close(std, theirs.std[0] * 0.9)
    assert mean.shape == model.latent_shape(32, 32)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_with_checkpointing_trains_and_keeps_the_lora_in_float32(plan_of, precision):
    run = Run(plan_of(mixed_precision=precision, gradient_checkpointing=True, optimizer_type="AdamW8bit"))
    run.train()
    weights = run.parts.network.parameters("student")
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert run.parts.model.transformer.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    saved = load_file(run.folder / "tiny.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())
    assert any(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_up" in name)


def test_the_clips_of_learned_words_never_join_the_transformer_on_a_gpu(tiny_model, monkeypatch):
    model = model_of(tiny_model)
    monkeypatch.setattr(
        "library.models.sd3.model.LearnedWords", lambda encoders, *given, **masked: (encoders, given[-1])
    )
    model.device, model.dtype = torch.device("cuda"), torch.float16  # a stand-in: nothing is computed on it
    encoders, rows_on = model.learned_words({})
    kinds = {(tensor.device.type, tensor.dtype) for encoder in encoders for tensor in encoder.parameters()}
    assert kinds == {("cpu", torch.float32)} and rows_on == torch.device("cuda")


def test_checkpointing_changes_nothing_but_memory(plan_of):
    files = []
    for checkpointing in (False, True):
        run = Run(plan_of(gradient_checkpointing=checkpointing))
        run.train()
        files.append(load_file(run.folder / "tiny.safetensors"))
    for name, tensor in files[0].items():
        torch.testing.assert_close(tensor, files[1][name], rtol=1e-2, atol=1e-4)


def test_sd3_medium_without_dual_attention_trains_for_a1111_as_well(plan_of, tiny_model, tmp_path, capsys):
    folder = tmp_path / "sd3-medium"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    config = {**config, "dual_attention_layers": [], "qk_norm": None}
    shutil.rmtree(folder / "transformer")
    SD3Transformer2DModel.from_config(config).save_pretrained(folder / "transformer")
    run = Run(plan_of(pretrained_model_name_or_path=str(folder)))
    run.train()
    tensors, said = read_safetensors(run.folder / "tiny.safetensors")
    assert not any("attn2" in name for name in tensors)
    assert said["modelspec.architecture"] == "stable-diffusion-3-medium/lora"
    assert said["ss_base_model_version"] == "sd3-medium"
    assert "tiny.safetensors: loads in ComfyUI, reForge, Forge, A1111; " in capsys.readouterr().err


def test_weights_named_fp16_are_found(tiny_model, tmp_path):
    folder = tmp_path / "fp16"
    shutil.copytree(tiny_model, folder)
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    assert len(model_of(folder).blocks) == len(model_of(tiny_model).blocks)
    assert model_of(folder).encode_text(["a dog"])[0].context.shape == (2 * LENGTH, 48)


def test_a_damaged_or_pickled_model_is_reported(tiny_model, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model, folder)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="is cut off inside its header"):
        _ = model_of(folder).transformer
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"contains no \.safetensors file"):
        _ = model_of(folder).transformer
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"vae/config\.json can't be read"):
        _ = model_of(folder).size_multiple


def test_a_dry_run_and_a_warm_start_read_no_weights(plan_of, tiny_model, tmp_path, monkeypatch):
    Run(plan_of()).train()
    folder, parts_read, read = tmp_path / "warm", set(), TensorFile.read
    shutil.copytree(tiny_model, folder)
    monkeypatch.setattr(TensorFile, "read", lambda file, key: parts_read.add(file.path.parent.name) or read(file, key))
    plan = plan_of(pretrained_model_name_or_path=str(folder), overwrite=True)
    assert "No caption is cut off" in describe_plan(plan) and not parts_read
    prepared(plan)
    assert parts_read == {"transformer"}


@pytest.mark.parametrize("size", [(36, 32), (72, 32), (32, 100)])
def test_a_size_that_the_model_cannot_draw_is_reported(tiny_model, size):
    with pytest.raises(ModelError, match="can't draw"):
        model_of(tiny_model).latent_shape(*size)


@pytest.mark.parametrize("name", ["subject", "style", "two_concepts"])
def test_every_dataset_config_dry_runs_once_its_folders_are_filled(
    name, plan_of, tiny_model, pictures, tmp_path, monkeypatch
):
    """At its own resolution: the tiny model gets a larger position table, of which a dry run only reads the size."""

    folder = tmp_path / "large"
    shutil.copytree(tiny_model, folder)
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "pos_embed_max_size": 192}))
    for place, caption in {"my_photos": "a photo of a [V] dog", "my_pictures": "a house"}.items():
        (tmp_path / place).mkdir()
        shutil.copy(pictures / "0.png", tmp_path / place / "0.png")
        (tmp_path / place / "0.txt").write_text(caption)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "dataset_configs" / f"{name}.toml").read_text()
    text = text.replace('class_word = "backpack"', 'class_word = "dog"')
    samples = tmp_path / "house.txt"
    samples.write_text("a house\n")
    dataset = text.replace("{", "{{").replace("}", "}}")
    plan = plan_of(dataset, pretrained_model_name_or_path=str(folder), sample_prompts=str(samples))
    assert "512 x 512: " in describe_plan(plan)
