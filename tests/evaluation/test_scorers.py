"""Scorers: each network compared with an independent one on the same inputs, and wrong folders."""

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import ViTConfig, ViTModel

from library.errors import ConfigError, ModelError
from library.evaluation.measures.distances import kid, mean_cosine
from library.evaluation.scorers.catalogue import PAPER, SCORERS, check_all, entries_of
from library.evaluation.scorers.clip import ClipScorer, vision_from_openai
from library.evaluation.scorers.efficientnet_lite import EfficientNetLite0
from library.evaluation.scorers.encoders import load_dino
from library.evaluation.scorers.inception import FidInception
from library.evaluation.scorers.interface import Identity
from library.evaluation.scorers.lpips import Lpips
from library.evaluation.scorers.pixels import CLIP_MEAN, CLIP_STD, Preprocess
from library.evaluation.scorers.sam import GridMasks, without_doubles
from tests.helpers.scorers import CPU, SHAPE, picture, random_clip
from tools.pocket.judging import POCKET, asked_in

IDENTITY = Identity("test", "random")


class Letters:
    """A tokenizer with one token per letter."""

    def __call__(self, texts, padding, truncation, max_length, return_tensors):
        codes = [[ord(letter) - ord("a") for letter in text if letter != " "] for text in texts]
        rows = [[48, *code[: max_length - 2], 49] for code in codes]
        longest = max(map(len, rows))
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": torch.tensor([row + [49] * (longest - len(row)) for row in rows]), "attention_mask": mask}


def test_clip_scores_are_those_of_the_model_itself():
    model, preprocess = random_clip(), Preprocess(16, 16, CLIP_MEAN, CLIP_STD)
    scorer = ClipScorer(IDENTITY, model, Letters(), preprocess, None, CPU)
    images, texts = [picture(0), picture(1), picture(2)], ["ab", "cdef", "ab"]
    with torch.no_grad():
        said = model(pixel_values=preprocess.batch(images), **Letters()(texts, True, True, 8, "pt"))
    torch.testing.assert_close(scorer.score(images, texts), said.logits_per_image.diagonal(), atol=1e-5, rtol=1e-5)
    embedded = F.normalize(scorer.embed(images), dim=1)
    torch.testing.assert_close(embedded, said.image_embeds, atol=1e-5, rtol=1e-5)
    scorer.factor = 100.0
    cosines = (said.image_embeds * said.text_embeds).sum(1)
    torch.testing.assert_close(scorer.score(images, texts), 100 * cosines, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("size", [(40, 32), (31, 57), (16, 16)])
def test_pictures_are_prepared_as_clips_own_processor_does(size):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    own = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    wanted = torch.as_tensor(own(picture(3, size), return_tensors="pt")["pixel_values"][0])
    torch.testing.assert_close(Preprocess(16, 16, CLIP_MEAN, CLIP_STD)(picture(3, size)), wanted, atol=1e-5, rtol=1e-5)


def test_openais_names_are_the_same_network():
    """Rewritten as in OpenAI's code, with its names, and compared."""
    torch.manual_seed(1)
    width, heads, patch = 16, 2, 4
    layer = nn.TransformerEncoderLayer(width, heads, 64, 0.0, F.gelu, batch_first=True, norm_first=True)
    own = {name: torch.randn_like(one) / 4 for name, one in layer.state_dict().items()}
    layer.load_state_dict(own)
    names = {
        "self_attn.": "attn.",
        "linear1.": "mlp.c_fc.",
        "linear2.": "mlp.c_proj.",
        "norm1.": "ln_1.",
        "norm2.": "ln_2.",
    }
    tensors = {}
    for name, tensor in own.items():
        old = next(old for old in names if name.startswith(old))
        tensors[f"visual.transformer.resblocks.0.{names[old]}{name.removeprefix(old)}"] = tensor
    conv, one, places = torch.randn(width, 3, patch, patch), torch.randn(width), torch.randn(17, width)
    tensors |= {"visual.conv1.weight": conv, "visual.class_embedding": one, "visual.positional_embedding": places}
    norms = {name: (torch.randn(width), torch.randn(width)) for name in ("ln_pre", "ln_post")}
    for name, (weight, bias) in norms.items():
        tensors |= {f"visual.{name}.weight": weight, f"visual.{name}.bias": bias}
    pixels = torch.randn(2, 3, 16, 16)
    x = torch.cat([one.expand(2, 1, -1), F.conv2d(pixels, conv, stride=patch).flatten(2).transpose(1, 2)], 1) + places
    x = layer.eval()(F.layer_norm(x, (width,), *norms["ln_pre"]))
    wanted = F.layer_norm(x[:, 0], (width,), *norms["ln_post"])

    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        **{**SHAPE, "num_hidden_layers": 1, "intermediate_size": 64}, image_size=16, patch_size=4, hidden_act="gelu"
    )
    model = CLIPVisionModel(config).eval()
    model.load_state_dict(vision_from_openai(tensors, "visual."))
    torch.testing.assert_close(model(pixel_values=pixels).pooler_output, wanted, atol=1e-4, rtol=1e-4)


def test_dino_is_the_class_token_behind_the_last_norm(tmp_path):
    torch.manual_seed(2)
    model = ViTModel(ViTConfig(**SHAPE, image_size=224, patch_size=56), add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    found = load_dino(IDENTITY, tmp_path, CPU).embed([picture(0, (300, 256))])
    with torch.no_grad():
        from library.evaluation.scorers.encoders import DINO_INPUT

        wanted = model(pixel_values=DINO_INPUT.batch([picture(0, (300, 256))])).last_hidden_state[:, 0]
    torch.testing.assert_close(found, wanted)


def test_networks_of_ours_have_the_shapes_of_their_weights():
    assert FidInception()(torch.zeros(1, 3, 299, 299)).shape == (1, 2048)
    assert EfficientNetLite0().eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 1280)


def test_lpips_is_zero_for_equal_pictures_and_symmetric():
    torch.manual_seed(3)
    model = Lpips()
    for head in model.heads:
        nn.init.uniform_(head)
    a, b = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    assert torch.equal(model(a, a), torch.zeros(2))
    torch.testing.assert_close(model(a, b), model(b, a))
    assert (model(a, b) > 0).all()


def test_kid_is_its_double_sum_and_about_zero_for_the_same_distribution():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 4, generator=generator).double() for n in (5, 6))

    def k(a, b):
        return (float(a @ b) / 4 + 1) ** 3

    within = [
        sum(k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j) / (len(s) * (len(s) - 1))
        for s in (x, y)
    ]
    across = sum(k(a, b) for a in x for b in y) / 30
    assert kid(x, y) == pytest.approx(sum(within) - 2 * across)
    same = [kid(*torch.randn(2, 40, 4, generator=generator)) for _ in range(50)]
    assert (
        abs(sum(same) / 50)
        < 0.1
        < kid(torch.randn(40, 4, generator=generator), torch.randn(40, 4, generator=generator) + 1)
    )
    assert float(mean_cosine(x[:1], x[:1])) == pytest.approx(1)


def test_kid_is_torchmetrics_own():
    kernel = pytest.importorskip("torchmetrics.image.kid", reason="pip install torchmetrics, for this one comparison")
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(12, 6, generator=generator).double(), torch.randn(12, 6, generator=generator).double() + 0.5
    assert kid(x, y) == pytest.approx(float(kernel.poly_mmd(x, y, degree=3, gamma=None, coef=1.0)), rel=1e-9)


def test_masks_of_a_grid_are_kept_by_quality_stability_and_size_and_none_twice():
    whole, half, dot = (torch.full((256, 256), -9.0) for _ in range(3))
    whole[:], half[:, :128], dot[0, 0] = 9.0, 9.0, 9.0
    shaky = torch.where(half > 0, 0.5, -0.5)
    answers = torch.stack([torch.stack([whole, half, dot]), torch.stack([half, shaky, whole])])
    ious = torch.tensor([[0.9, 0.95, 0.99], [0.94, 0.99, 0.5]])
    grid = GridMasks(IDENTITY, lambda pixels: None, lambda seen, points: (answers, ious), grid=1)
    found = grid.masks(picture(0))
    assert torch.equal(found, torch.stack([half > 0, whole > 0]))
    assert len(without_doubles(found[:0], ious[0, :0])) == 0


def test_every_missing_weight_is_named_with_its_folder_source_size_and_the_way_round(tmp_path):
    with pytest.raises(ModelError) as error:
        check_all(entries_of([], [], "subject"), tmp_path)
    said = str(error.value)
    for name in (name for name in PAPER if name != "csd"):
        entry = SCORERS[name]
        assert str(entry.folder_in(tmp_path)) in said and entry.repository in said and entry.size in said
        assert f"--without {name}" in said
    assert "csd" not in said, "it is for styles"


def test_a_folder_with_another_model_is_refused(tmp_path):
    folder = SCORERS["dino"].folder_in(tmp_path)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_file({"embeddings.cls_token": torch.zeros(1, 1, 384)}, folder / "model.safetensors")
    assert '"bert" instead of "vit"' in str(SCORERS["dino"].problem(tmp_path))
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert SCORERS["dino"].problem(tmp_path) is None
    save_file({"embeddings.cls_token": torch.zeros(1, 1, 768)}, folder / "model.safetensors")
    assert "instead of (1, 1, 384)" in str(SCORERS["dino"].problem(tmp_path))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "is a pickle" in str(SCORERS["dino"].problem(tmp_path))


@pytest.mark.parametrize("name", [name for name, entry in SCORERS.items() if entry.shapes])
def test_another_models_weights_in_a_scorers_folder_are_known_by_their_shapes(tmp_path, name):
    entry = SCORERS[name]
    folder = entry.folder_in(tmp_path)
    folder.mkdir()
    for file in entry.files:
        (folder / file).write_text(json.dumps({"model_type": (*entry.model_types, "")[0]}))
    save_file({"some.weight": torch.zeros(2)}, folder / "model.safetensors")
    said = str(entry.problem(tmp_path))
    assert f"--scorers {name}" in said and "another model" in said and entry.repository in said
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert "can't be read" in str(entry.problem(tmp_path))


def downloads(monkeypatch, files: dict[str, bytes]) -> list[dict]:
    """Replaces the hub; returns what was requested."""
    asked = []

    def snapshot_download(repository, allow_patterns, local_dir):
        asked.append({"repository": repository, "files": allow_patterns})
        local_dir.mkdir(parents=True, exist_ok=True)
        for name in set(files) & set(allow_patterns):
            (local_dir / name).write_bytes(files[name])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return asked


def test_weights_are_downloaded_only_if_allowed_and_only_as_safetensors(tmp_path, monkeypatch):
    save_file({"embeddings.cls_token": torch.zeros(1, 1, 384)}, tmp_path / "dino.safetensors")
    weights, config = (tmp_path / "dino.safetensors").read_bytes(), json.dumps({"model_type": "vit"}).encode()
    asked, entries = downloads(monkeypatch, {"model.safetensors": weights, "config.json": config}), [SCORERS["dino"]]
    with pytest.raises(ModelError, match="--allow_download"):
        check_all(entries, tmp_path)
    assert asked == []
    check_all(entries, tmp_path, allow_download=True)
    assert asked == [{"repository": "facebook/dino-vits16", "files": ["model.safetensors", "config.json"]}]
    check_all(entries, tmp_path, allow_download=True)
    assert len(asked) == 1, "it is there now"


def test_nothing_is_downloaded_if_something_else_is_missing_anyway(tmp_path, monkeypatch):
    asked = downloads(monkeypatch, {})
    with pytest.raises(ModelError, match="hps"):
        check_all([SCORERS["dino"], SCORERS["hps"]], tmp_path, allow_download=True)
    assert asked == []


def test_a_download_that_fails_or_brings_another_model_gets_a_sentence(tmp_path, monkeypatch):
    downloads(monkeypatch, {"config.json": b"{}"})
    with pytest.raises(ModelError, match=r"facebook/dino-vits16 has no model\.safetensors") as error:
        check_all([SCORERS["dino"]], tmp_path, allow_download=True)
    assert "tools.scorers convert" in str(error.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        check_all([SCORERS["dino"]], tmp_path, allow_download=True)


def test_a_misspelt_scorer_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match='"pickscore"'):
        entries_of(["pikscore"], [], "subject")
    with pytest.raises(ConfigError, match="clip"):
        entries_of([], ["clp"], "subject")
    assert entries_of(["none"], [], "subject") == []
    assert "clip" not in [entry.name for entry in entries_of([], ["clip"], "subject")]


def test_the_judge_of_the_pocket_world_is_an_encoder_a_scorer_and_a_mask_generator(tmp_path):
    assert POCKET.problem(tmp_path) is None
    judge, own = POCKET.open(tmp_path, CPU), Image.open("pocket/subject-creature/00.png").convert("RGB")
    right, wrong = judge.score(
        [own, own], ["a creature in the city at night in ink", "a car on the beach by day in clay"]
    )
    assert right > 90 > 20 > wrong
    assert judge.embed([own]).shape == (1, 256) and judge.masks(own).any(0).all() and judge.subject(own).any()
    assert asked_in("a big blue creature at left in the snow") == {
        "object": "creature", "colour": "blue", "size": "big", "place": "left", "background": "snow",
    }  # fmt: skip
