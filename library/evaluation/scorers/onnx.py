"""Scorers on onnxruntime, on the CPU."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from library.errors import ModelError
from library.evaluation.scorers.interface import Identity
from library.evaluation.scorers.pixels import IMAGENET_MEAN, IMAGENET_STD, Preprocess, in_batches

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

THREADS = 2
U2NET_INPUT = Preprocess(320, 320, IMAGENET_MEAN, IMAGENET_STD, Image.Resampling.BILINEAR, squash=True)


def session(file: Path) -> InferenceSession:
    """An ONNX model, ready to run.

    Raises:
        ModelError: damaged, or not one.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class but this one
        reason = (str(error).strip().splitlines() or ["unknown"])[0]
        raise ModelError(f"{file} can't be opened by onnxruntime: {reason}") from error


def check_inputs(file: Path, wanted: Collection[str]) -> None:
    """Checks whether an ONNX model can be opened and has these inputs.

    Args:
        wanted: their names; empty: one input, whatever its name.

    Raises:
        ModelError: it is damaged, or another model.
    """
    found = [one.name for one in session(file).get_inputs()]
    if (wanted and not set(wanted) <= set(found)) or (not wanted and len(found) != 1):
        needed = ", ".join(sorted(wanted)) or "one input"
        raise ModelError(f"{file} has the inputs {', '.join(found)} instead of {needed}; it is for another model.")


class OnnxEncoder:
    """Any encoder with one input, (N, 3, H, W), whose first output is one vector a picture."""

    def __init__(self, identity: Identity, file: Path, preprocess: Preprocess) -> None:
        self.identity = identity
        self._session = session(file)
        self._preprocess = preprocess
        self._input = self._session.get_inputs()[0].name

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """(N, D) float32."""
        parts = []
        for some in in_batches(images, 8):
            (found, *_) = self._session.run(None, {self._input: self._preprocess.batch(some).numpy()})
            parts.append(torch.from_numpy(np.asarray(found, np.float32)).flatten(1))
        return torch.cat(parts)


class U2Net:
    """U²-Net (Qin et al., 2020): the thing that stands out."""

    def __init__(self, identity: Identity, file: Path) -> None:
        self.identity = identity
        self._session = session(file)
        self._input = self._session.get_inputs()[0].name

    def subject(self, image: Image.Image) -> Tensor:
        """(H, W) bool: where the first output, stretched to 0 .. 1, is above a half."""
        saliency = torch.from_numpy(self._session.run(None, {self._input: U2NET_INPUT(image)[None].numpy()})[0])
        low, high = saliency.min(), saliency.max()
        stretched = (saliency - low) / (high - low).clamp_min(1e-6)
        return F.interpolate(stretched, (image.height, image.width), mode="bilinear")[0, 0] > 0.5


def load_encoder(identity: Identity, folder: Path, device: torch.device) -> OnnxEncoder:
    """model.onnx, and preprocessor_config.json as image encoders of `transformers` have it."""
    return OnnxEncoder(identity, folder / "model.onnx", Preprocess.of_file(folder / "preprocessor_config.json"))


def load_u2net(identity: Identity, folder: Path, device: torch.device) -> U2Net:
    """From the folder's one file."""
    return U2Net(identity, folder / "u2netp.onnx")
