"""Scorers in ONNX, with a model of two layers; skipped if onnxruntime is not installed."""

import json

import pytest
import torch

pytest.importorskip("onnxruntime", reason="pip install onnxruntime: the scorers in ONNX need it, nothing else does")

from library.errors import ModelError
from library.evaluation.scorers.catalogue import SCORERS, check_all, entries_of
from library.evaluation.scorers.onnx import check_inputs
from library.evaluation.scorers.pixels import CLIP_MEAN, CLIP_STD, Preprocess
from tests.helpers.scorers import CPU, picture

FLOAT, OPSET, IR = 1, 13, 8


def _bytes(field: int, content: bytes | str) -> bytes:
    """A field of a protobuf message: its number, its length in sevens of bits, its content."""
    content = content.encode() if isinstance(content, str) else content
    length = [len(content) & 0x7F | 0x80, len(content) >> 7] if len(content) > 127 else [len(content)]
    return bytes([field << 3 | 2, *length]) + content


def _number(field: int, value: int) -> bytes:
    return bytes([field << 3, value])


def _tensor(name: str, shape: tuple[int | str, ...]) -> bytes:
    sizes = b"".join(_bytes(1, _bytes(2, s) if isinstance(s, str) else _number(1, s)) for s in shape)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, FLOAT) + _bytes(2, sizes)))


def _node(kind: str, given: str, made: str) -> bytes:
    return _bytes(1, given) + _bytes(2, made) + _bytes(4, kind)


def mean_of_channels() -> bytes:
    """An ONNX file that computes the brightness of each channel, by the format's own description (onnx.proto)."""
    nodes = _bytes(1, _node("GlobalAveragePool", "pixels", "means")) + _bytes(1, _node("Flatten", "means", "vector"))
    ends = _bytes(11, _tensor("pixels", ("N", 3, 16, 16))) + _bytes(12, _tensor("vector", ("N", 3)))
    return _number(1, IR) + _bytes(7, nodes + _bytes(2, "means") + ends) + _bytes(8, _number(2, OPSET))


@pytest.fixture
def folder(tmp_path):
    """A scorer's folder with that encoder."""
    folder = SCORERS["onnx"].folder_in(tmp_path)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(mean_of_channels())
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    norm = {"image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD)}
    (folder / "preprocessor_config.json").write_text(json.dumps({**size, **norm}))
    return folder


def test_an_encoder_of_ones_own_in_onnx_is_a_scorer_like_any_other(folder, tmp_path):
    (entry,) = entries_of(["onnx"], [], "subject")
    check_all([entry], tmp_path)
    images = [picture(n) for n in range(9)]
    wanted = Preprocess(16, 16, CLIP_MEAN, CLIP_STD).batch(images).mean((2, 3))
    scorer = entry.open(tmp_path, CPU)
    torch.testing.assert_close(scorer.embed(images), wanted, atol=1e-5, rtol=1e-5)
    assert len(scorer.identity.sha256["model.onnx"]) == 64


def test_what_is_not_onnx_or_another_model_is_reported_before_a_picture_is_made(folder, tmp_path):
    with pytest.raises(ModelError, match="has the inputs pixels instead of image; it is for another model"):
        check_inputs(folder / "model.onnx", ("image",))
    (folder / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="can't be opened by onnxruntime"):
        check_all([SCORERS["onnx"]], tmp_path)
