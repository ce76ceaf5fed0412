"""LoRA files as strangers may send them, damaged in every way."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from library.adapters.files import save_lora
from tests.helpers.loras import PART, layer


def tensors_of(change):
    """Damage that changes the tensors."""

    def harm(path: Path) -> None:
        save_file(change(load_file(path)), path)

    return harm


def metadata_of(**metadata):
    def harm(path: Path) -> None:
        save_file(load_file(path), path, metadata)

    return harm


def bytes_of(change):
    def harm(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return harm


def ending(end, change):
    """Changes the tensors whose names have this ending."""
    return tensors_of(lambda file: {key: change(one) if key.endswith(end) else one for key, one in file.items()})


def with_nan(tensor):
    return torch.cat([torch.full_like(tensor[:1], float("nan")), tensor[1:]])


def renamed(name):
    """Gives all layers the name of another model's layer."""
    return tensors_of(
        lambda file: {name + key[key.index(".lora") :]: one for key, one in file.items() if ".lora" in key}
    )


EVERYWHERE = {
    "cut": bytes_of(lambda data: data[:-20]),
    "cut in the header": bytes_of(lambda data: data[:40]),
    "empty": bytes_of(lambda data: b""),
    "no header": bytes_of(lambda data: b"\xff" * 8 + b"{" * 100),
    "a lying header": bytes_of(lambda data: struct.pack("<Q", 1 << 40) + data[8:]),
    "pickled": bytes_of(lambda data: pickle.dumps({"a": 1})),
    "NaN": ending("lora_up.weight", with_nan),
    "infinite": ending("lora_down.weight", lambda one: one * float("inf")),
    "without its ups": tensors_of(lambda file: {key: one for key, one in file.items() if "lora_up" not in key}),
    "without its downs": tensors_of(lambda file: {key: one for key, one in file.items() if "lora_down" not in key}),
    "mixed ranks": ending("lora_up.weight", lambda one: torch.cat([one, one[:, :1]], dim=1)),
    "of Flux": renamed("lora_unet_double_blocks_0_img_attn_qkv"),
    "of SDXL": renamed("lora_unet_down_blocks_0_attentions_0_proj_in"),
    "names like paths": renamed("../../../etc/passwd"),
    "10 MiB of text": metadata_of(ss_comment="x" * (10 << 20)),
    "nothing": tensors_of(lambda file: {}),
}
"""Damage that every program rejects. The file's name still ends in .safetensors."""
FOR_ONE_MODEL = {
    "of a larger model": renamed("lora_unet_joint_blocks_37_x_block_mlp_fc2"),
    "of a wider model": tensors_of(
        lambda file: {
            key: torch.cat([one, one], dim=one.ndim - 1) if "down" in key else one for key, one in file.items()
        }
    ),
}
"""Damage that only shows together with the model."""
DEEP = "[" * 200_000


def written(folder: Path, harm=None, layout: str = "kohya") -> Path:
    folder.mkdir(exist_ok=True)
    (path,) = save_lora(folder, "dog", {PART: layer(0, 32, 128)}, "float", {}, [layout])
    if harm:
        harm(path)
    return path
