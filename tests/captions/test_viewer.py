"""A tiny random Qwen3-VL of transformers' own class, loaded from a folder as on the hub."""

import json

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from library.captions import viewer
from library.captions.viewer import KNOWN, QwenViewer, best_for, device_for
from library.errors import ModelError

CPU = torch.device("cpu")
MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
VOCABULARY = {word: number for number, word in enumerate([*MARKS, "<unk>", "user", "assistant", "what", "is", "here"])}
PATCH, MERGE = 4, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the same architecture, tiny in every dimension."""
    folder = tmp_path_factory.mktemp("models") / "qwen"
    image, start, end = (VOCABULARY[mark] for mark in ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>"))
    config = Qwen3VLConfig(
        text_config={
            **{"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8},
            **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512},
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        },
        vision_config={
            **{"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
            **{"patch_size": PATCH, "spatial_merge_size": MERGE, "num_position_embeddings": 16},
            "deepstack_visual_indexes": [0],
        },
        **{"image_token_id": image, "video_token_id": 31, "vision_start_token_id": start, "vision_end_token_id": end},
    )
    torch.manual_seed(0)
    Qwen3VLForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", additional_special_tokens=MARKS)
    fast.save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 4096}
    settings = {"size": size, "patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    kinds = {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, **kinds}))
    return folder


def picture(colour: str, size=(32, 16)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_each_picture_has_its_places_in_the_turn(folder):
    qwen = QwenViewer(folder, "tiny", CPU)
    given = qwen.inputs([picture("red"), picture("blue", (16, 16))], "what is here")
    ids = given["input_ids"][0].tolist()
    assert given["image_grid_thw"].tolist() == [[1, 4, 8], [1, 4, 4]]
    assert ids.count(VOCABULARY["<|image_pad|>"]) == 4 * 8 // 4 + 4 * 4 // 4 == int(given["mm_token_type_ids"].sum())
    words = [list(VOCABULARY)[number] for number in ids]
    assert words[:3] == ["<|im_start|>", "user", "<|vision_start|>"]
    assert words[-6:] == ["what", "is", "here", "<|im_end|>", "<|im_start|>", "assistant"]


def test_an_answer_is_bounded_the_same_again_and_about_the_picture(folder, monkeypatch):
    monkeypatch.setattr(viewer, "MOST_TOKENS", 8)
    qwen = QwenViewer(folder, "tiny", CPU)
    assert qwen.answer([picture("red")], "what is here") == qwen.answer([picture("red")], "what is here")
    given = [qwen.inputs([picture(colour)], "what is here") for colour in ("red", "green")]
    with torch.no_grad():
        red, green = (qwen.model(**one).logits[0, -1] for one in given)
    assert not torch.equal(red, green)
    made = qwen.model.generate(**given[0], max_new_tokens=8, do_sample=False)
    assert made.shape[1] <= given[0]["input_ids"].shape[1] + 8


def test_large_pictures_are_shrunk_for_the_model():
    assert viewer.shrunk(picture("red", (4000, 1000))).size == (512, 128)
    assert viewer.shrunk(picture("red", (64, 32))).size == (64, 32)


def test_another_models_folder_and_half_a_model_get_a_sentence(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "florence2", "auto_map": {"AutoConfig": "evil.Config"}}')
    with pytest.raises(ModelError, match="florence2"):
        QwenViewer(tmp_path, "x", CPU)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ModelError, match="no tokenizer"):
        QwenViewer(tmp_path, "x", CPU)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(ModelError, match="does not load"):
        QwenViewer(tmp_path, "x", CPU)


def test_a_missing_model_gets_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="--model: the folder"):
        viewer.folder_of(str(tmp_path / "gone"))
    with pytest.raises(ModelError, match="--model: Qwen/Qwen3-VL-2B-Instruct has not been downloaded"):
        viewer.folder_of("Qwen/Qwen3-VL-2B-Instruct")


def test_no_pickle_and_no_code_of_a_hub_model_is_downloaded(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **how: asked.update(how) or str(tmp_path))
    assert viewer.folder_of(KNOWN[0].hub_id) == tmp_path
    assert {pattern.rpartition(".")[2] for pattern in asked["allow_patterns"]} == {"safetensors", "json", "txt"}


@pytest.mark.parametrize(
    ("gb", "size", "device"),
    [(24, "8B", "cuda"), (12, "4B", "cuda"), (8, "2B", "cuda"), (4, "2B", "cpu"), (0, "2B", "cpu")],
)
def test_the_largest_model_that_fits_the_free_memory_is_taken(gb, size, device):
    assert f"-{size}-" in best_for(gb * 1e9).hub_id and device_for(gb * 1e9).type == device
