"""Scorers from folders: tiny random networks of the same classes, saved as users have them, opened by the catalogue."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast

from library.evaluation.measures.segmentation import pairwise_iou
from library.evaluation.scorers import clip, encoders, sam
from library.evaluation.scorers.catalogue import SCORERS
from library.evaluation.scorers.pixels import CLIP_MEAN, CLIP_STD, Preprocess
from library.models.sd3.bundled_tokenizers import bundled_tokenizers
from tests.helpers.scorers import CPU, SHAPE, picture, random_clip

TEXTS = ["a dog in the snow", "two red cups", "a dog in the snow"]
WORDS = {word: number for number, word in enumerate(["a", "dog", "in", "the", "snow", "two", "red", "cups"])}


def save_clip(folder) -> CLIPModel:
    """A CLIP's folder as on the hub."""
    model = random_clip()
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({**WORDS, "<pad>": 40, "<end>": 49}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A <end>", special_tokens=[("<end>", 49)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<end>").save_pretrained(folder)
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    norm = {"image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD)}
    (folder / "preprocessor_config.json").write_text(json.dumps({**size, **norm}))
    return model


@pytest.mark.parametrize(("name", "factor"), [("clip", 100.0), ("pickscore", None)])
def test_clip_t_and_pickscore_are_the_models_own_cosines_from_its_own_folder(tmp_path, name, factor):
    folder = SCORERS[name].folder_in(tmp_path)
    model = save_clip(folder)
    scorer, images = SCORERS[name].open(tmp_path, CPU), [picture(n) for n in range(3)]
    ids = [[*(WORDS[word] for word in text.split()), 49] for text in TEXTS]
    with torch.no_grad():
        pixels = Preprocess(16, 16, CLIP_MEAN, CLIP_STD).batch(images)
        rows = [model(pixel_values=pixels, input_ids=torch.tensor([one])) for one in ids]
    cosines = torch.stack([F.cosine_similarity(r.image_embeds[k], r.text_embeds[0], dim=0) for k, r in enumerate(rows)])
    wanted = cosines * (model.logit_scale.exp() if factor is None else factor)
    torch.testing.assert_close(scorer.score(images, TEXTS), wanted.detach(), atol=1e-4, rtol=1e-4)
    assert set(scorer.identity.sha256) == {"model.safetensors"} and scorer.identity.checkpoint


def in_openais_names(model: CLIPModel | CLIPVisionModel) -> dict[str, torch.Tensor]:
    """The weights with open_clip's and OpenAI's names, written independently of the code that reads them."""
    outer = {
        "embeddings.patch_embedding.": "conv1.",
        "embeddings.class_embedding": "class_embedding",
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.token_embedding.": "token_embedding.",
        "pre_layrnorm.": "ln_pre.",
        "post_layernorm.": "ln_post.",
        "final_layer_norm.": "ln_final.",
    }
    inner = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    found, qkv = {}, {}
    for full, tensor in model.state_dict().items():
        side = "visual." if full.startswith("vision_model.") else ""
        name = full.removeprefix("vision_model.").removeprefix("text_model.")
        if name.startswith("encoder.layers."):
            _, _, number, inside = name.split(".", 3)
            layer = f"{side}transformer.resblocks.{number}."
            module, _, kind = inside.rpartition(".")
            if module.startswith("self_attn.") and module[-6] in "qkv":
                qkv.setdefault(f"{layer}attn.in_proj_{kind}", {})[module[-6]] = tensor
            else:
                found[f"{layer}{inner[module]}.{kind}"] = tensor
        else:
            old = next((old for old in outer if name.startswith(old)), None)
            if old:
                found[side + outer[old] + name.removeprefix(old)] = tensor
    found |= {name: torch.cat([parts[one] for one in "qkv"]) for name, parts in qkv.items()}
    return {name: tensor.clone() for name, tensor in found.items()}


def test_hps_is_open_clips_network_by_its_names_and_the_plain_cosine(tmp_path, monkeypatch):
    torch.manual_seed(4)
    half = {**SHAPE, "hidden_act": "gelu", "projection_dim": 8}
    vision = {**half, "image_size": 224, "patch_size": 56}
    monkeypatch.setattr(clip, "VIT_H_14", {"projection_dim": 8, "text_config": half, "vision_config": vision})
    model = CLIPModel(CLIPConfig(**clip.VIT_H_14)).eval()
    tensors = in_openais_names(model)
    tensors["visual.proj"] = model.visual_projection.weight.T.contiguous()
    tensors["text_projection"] = model.text_projection.weight.T.contiguous()
    tensors["logit_scale"] = model.logit_scale.data
    folder = SCORERS["hps"].folder_in(tmp_path)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    images = [picture(n, (224, 224)) for n in range(3)]
    tokens = bundled_tokenizers(clip.BUNDLED)[1](TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        pixels = Preprocess(224, 224, CLIP_MEAN, CLIP_STD).batch(images)
        said = model(pixel_values=pixels, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    wanted = 100 * (said.image_embeds * said.text_embeds).sum(1)
    torch.testing.assert_close(SCORERS["hps"].open(tmp_path, CPU).score(images, TEXTS), wanted, atol=1e-4, rtol=1e-4)


def test_csd_is_the_image_half_by_openais_names_and_the_style_head(tmp_path, monkeypatch):
    torch.manual_seed(5)
    monkeypatch.setattr(encoders, "VIT_L_14", {**SHAPE, "patch_size": 56})
    model, head = CLIPVisionModel(CLIPVisionConfig(**encoders.VIT_L_14)).eval(), torch.randn(16, 5)
    tensors = {f"backbone.{name.removeprefix('visual.')}": one for name, one in in_openais_names(model).items()}
    folder = SCORERS["csd"].folder_in(tmp_path)
    folder.mkdir()
    save_file({**tensors, "last_layer_style": head}, folder / "model.safetensors")
    images = [picture(n, (250, 224)) for n in range(2)]
    with torch.no_grad():
        wanted = model(pixel_values=encoders.CSD_INPUT.batch(images)).pooler_output @ head
    torch.testing.assert_close(SCORERS["csd"].open(tmp_path, CPU).embed(images), wanted, atol=1e-4, rtol=1e-4)


def tiny_sam2():
    """SAM 2 with few channels."""
    from transformers import Sam2Config, Sam2Model

    torch.manual_seed(6)
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "blocks_per_stage": [1, 1, 1, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "global_attention_blocks": [],
        "window_size_per_stage": [8, 4, 4, 4],
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "fpn_hidden_size": 32,
    }
    mask = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    prompt = {"hidden_size": 32, "mask_input_channels": 4}
    return Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=mask)).eval()


def test_sam2_of_transformers_is_asked_once_a_picture_and_answers_as_the_whole_model_does(tmp_path, monkeypatch):
    model = tiny_sam2()
    folder = SCORERS["sam2"].folder_in(tmp_path)
    model.save_pretrained(folder)
    for name, value in (("LEAST_QUALITY", -9.0), ("LEAST_STABILITY", -1.0), ("LEAST_AREA", 0.0)):
        monkeypatch.setattr(sam, name, value)
    monkeypatch.setattr(sam, "GRID_ON_CPU", 2)
    found = SCORERS["sam2"].open(tmp_path, CPU).masks(picture(7, (64, 48)))
    points = torch.tensor([[256.0, 256.0], [768.0, 256.0], [256.0, 768.0], [768.0, 768.0]])
    with torch.no_grad():
        said = model(
            pixel_values=sam.INPUT(picture(7, (64, 48)))[None],
            input_points=points[None, :, None],
            input_labels=torch.ones(1, 4, 1, dtype=torch.long),
            multimask_output=True,
        )
    wanted = sam.without_doubles(said.pred_masks[0].flatten(0, 1) > 0, said.iou_scores[0].flatten())
    assert found.shape == wanted.shape and found.shape[1:] == (256, 256)
    assert pairwise_iou(found, wanted).diagonal().min() > 0.999
