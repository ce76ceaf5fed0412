"""The vision-language model that looks at pictures: Qwen3-VL with transformers' classes, without the model's code.

Its inputs are put together here: transformers' processor for it needs torchvision, which nothing else here does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from library.errors import ModelError
from library.models.loading.hub import is_hub_id, is_offline, snapshot
from library.models.loading.pretrained import check_model_type, load_pretrained
from library.terminal import say

MODEL_TYPE = "qwen3_vl"
FILES = ["*.safetensors", "*.json", "*.txt"]
"""The files that are downloaded of a model."""
MOST_TOKENS = 320
"""Most tokens of an answer; facts in JSON have about 120."""
LONGEST_SIDE = 512
"""Longest side of pictures for the model, in pixels."""
BESIDE_WEIGHTS = 2e9
"""Bytes reserved for pictures, attention and the driver; not measured."""
IMAGE = "<|image_pad|>"
END_OF_TURN = "<|im_end|>"


class Viewer(Protocol):
    """Answers questions about pictures."""

    name: str
    """Identifies the model."""

    def answer(self, images: Sequence[Image], question: str) -> str:
        """The raw answer to a question about some pictures."""


@dataclass(frozen=True)
class Known:
    """A model on huggingface.co, and bytes of its weights in bf16, counted from its published configuration."""

    hub_id: str
    size: float

    @property
    def needs(self) -> float:
        """Bytes that it takes on a GPU."""
        return self.size + BESIDE_WEIGHTS


KNOWN = (
    Known("Qwen/Qwen3-VL-8B-Instruct", 17.5e9),
    Known("Qwen/Qwen3-VL-4B-Instruct", 8.9e9),
    Known("Qwen/Qwen3-VL-2B-Instruct", 4.3e9),
)
"""Largest first."""


def best_for(free: float) -> Known:
    """The largest model that fits into a GPU's free memory; without a GPU, or on a small one, the smallest.

    Args:
        free: bytes.
    """
    return next((one for one in KNOWN if one.needs <= free), KNOWN[-1])


def device_for(free: float) -> torch.device:
    """The GPU, if the smallest model fits into what is free of it, else the processor."""
    return torch.device("cuda" if free >= KNOWN[-1].needs else "cpu")


def free_memory() -> float:
    """Free bytes of the GPU; 0 without one."""
    return float(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else 0.0


def folder_of(model: str) -> Path:
    """The folder of a model, or its download from the hub.

    Raises:
        ModelError: it is neither, or can't be downloaded.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not is_hub_id(model):
        raise ModelError(
            f"--model: the folder {folder.absolute()} doesn't exist.",
            f"Give a folder with Qwen3-VL in it, or a model on huggingface.co such as {KNOWN[1].hub_id}.",
        )
    if not is_offline():
        size = next((f", {one.size / 1e9:.1f} GB," for one in KNOWN if one.hub_id == model), "")
        say(f"{model}{size} will be downloaded from huggingface.co, unless it is already here.")
    return snapshot(model, "--model", FILES)


def open_viewer(model: str | None) -> Viewer:
    """The named model, or else the best one for the GPU's free memory.

    Raises:
        ModelError: see `folder_of` and `QwenViewer`.
    """
    free = free_memory()
    named = model or best_for(free).hub_id
    return QwenViewer(folder_of(named), named, device_for(free))


class QwenViewer:
    """Qwen3-VL in bf16.

    Args:
        folder: as on huggingface.co, or a copy of it.
        name: see `Viewer`.

    Raises:
        ModelError: not this model's folder, or an incomplete one.
    """

    def __init__(self, folder: Path, name: str, device: torch.device) -> None:
        from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        check_model_type(folder, (MODEL_TYPE,))
        self.name = name
        self._device = device
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            self._patches: Any = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers and tokenizers raise all kinds of errors for damaged files
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{folder} has no tokenizer and image settings of Qwen3-VL: {reason}") from error
        model: Any = load_pretrained(Qwen3VLForConditionalGeneration, folder, torch.bfloat16)
        self._image_token = model.config.image_token_id
        if self._tokenizer.convert_tokens_to_ids(IMAGE) != self._image_token:
            raise ModelError(f"{folder}: the tokenizer is from another model: its {IMAGE} is not {self._image_token}.")
        self.model = model.to(device)

    @torch.no_grad()
    def answer(self, images: Sequence[Image], question: str) -> str:
        """See `Viewer`. Decodes greedily, so that an answer is reproducible."""
        from transformers import GenerationConfig

        given = self.inputs(images, question)
        end = self._tokenizer.convert_tokens_to_ids(END_OF_TURN)
        greedy = GenerationConfig(do_sample=False, max_new_tokens=MOST_TOKENS, eos_token_id=end, pad_token_id=end)
        made = self.model.generate(**given, generation_config=greedy)
        return self._tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True)

    def inputs(self, images: Sequence[Image], question: str) -> dict[str, Tensor]:
        """What the model reads: a turn of the user's with pictures and a question, and the start of its own."""
        seen = self._patches([shrunk(image) for image in images], return_tensors="pt")
        merged = seen["image_grid_thw"].prod(1) // self._patches.merge_size**2
        pictures = "".join(f"<|vision_start|>{IMAGE * int(count)}<|vision_end|>" for count in merged)
        turn = f"<|im_start|>user\n{pictures}{question}{END_OF_TURN}\n<|im_start|>assistant\n"
        ids = self._tokenizer(turn, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return {
            "input_ids": ids.to(self._device),
            "attention_mask": torch.ones_like(ids).to(self._device),
            "mm_token_type_ids": (ids == self._image_token).int().to(self._device),
            "pixel_values": seen["pixel_values"].to(self._device, torch.bfloat16),
            "image_grid_thw": seen["image_grid_thw"].to(self._device),
        }


def shrunk(image: Image) -> Image:
    """A picture with its longest side at `LONGEST_SIDE` pixels at most."""
    small = image.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return small
