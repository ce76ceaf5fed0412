"""Stable Diffusion 3.5 Medium with random weights, in one file for ComfyUI: python -m tools.random_checkpoint FILE

All of its parts at full size, 16 GB in 16 bits: it serves to try loading, counting, caching and training without the
    real weights. It draws noise. `--model` makes 3.5 Large, 28 GB, or 3 Medium of it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from library.files.atomic import written
from library.models.loading.weights import needed_by
from library.models.sd3.checkpoint_layouts import PARTS
from library.models.sd3.modules import blank
from library.models.sd3.single_file import NAMED, SD35_MEDIUM, Configuration
from tools.single_file import PREFIXES, transformer_for_comfyui, vae_for_comfyui

DTYPES = {"bf16": ("BF16", torch.bfloat16), "fp16": ("F16", torch.float16)}
MODELS = {name.removeprefix("Stable Diffusion "): folder for name, folder in NAMED.items()}
GENERAL = 1
"""Number of dimensions of a bias or a scale."""


def shapes_of(part: str, model: Path = SD35_MEDIUM) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a part as a single file has them."""
    weights = needed_by(blank(part, Configuration(model).config(part)))
    convert = {"transformer": transformer_for_comfyui, "vae": vae_for_comfyui}.get(part, dict)
    with torch.device("meta"):
        converted = convert({name: torch.empty(tensor.shape) for name, tensor in weights.items()})
    return {PREFIXES[part] + name: tuple(tensor.shape) for name, tensor in converted.items()}


def random_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers that keep what flows through them about as large as it was, float32."""
    if len(shape) == GENERAL:
        return 0.02 * torch.randn(shape, generator=generator) + (1.0 if name.endswith("weight") else 0.0)
    return torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))


def write_random(file: Path, parts: list[str], precision: str, model: Path = SD35_MEDIUM, seed: int = 0) -> int:
    """Writes the file tensor by tensor; returns its bytes."""
    name_of_dtype, dtype = DTYPES[precision]
    shapes = {name: shape for part in parts for name, shape in shapes_of(part, model).items()}
    header, at = {}, 0
    for name, shape in shapes.items():
        size = dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": name_of_dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with written(file) as temporary, temporary.open("wb") as target:
        target.write(len(text).to_bytes(8, "little") + text)
        for raw in _raw(shapes, dtype, seed):
            target.write(raw)
    return 8 + len(text) + at


def _raw(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, seed: int) -> Iterator[memoryview]:
    generator = torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        tensor = random_tensor(name, shape, generator).to(dtype)
        yield tensor.flatten().view(torch.uint8).numpy().data


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes one of Stability's models with random weights.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", choices=list(MODELS), default="3.5 Medium")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="Default: all.")
    parser.add_argument("--precision", choices=list(DTYPES), default="bf16")
    arguments = parser.parse_args()
    size = write_random(arguments.file, arguments.parts, arguments.precision, MODELS[arguments.model])
    print(f"{arguments.file}: {size / 1e9:.2f} GB")
