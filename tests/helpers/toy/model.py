"""The toy as the trainer sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from library.config.data_settings import DataSettings
from library.errors import ModelError
from library.files import fingerprint
from library.hierarchical_embedding_injector import TextInput
from library.models.interface import Progress, PromptBatch, TextShape, TextStates, TextStream, TokenCount, Words
from library.models.latent_model import LatentModel
from library.models.memory.counting import Footprint, count_pass
from library.models.memory.operations import META
from library.transfer import to_device

LENGTH = 12
"""Number of tokens that the encoder reads."""


class ToyModel(LatentModel):
    """See `FlowModel`."""

    feed_forward = ("ff", "ff_text")
    encoders = ("the encoder",)
    texts_at_once = 4
    streams = (TextStream("word", "words", 0, LENGTH),)
    described = {
        "ss_network_module": "networks.lora_toy",
        "ss_base_model_version": "toy",
        "modelspec.architecture": "toy/lora",
        "modelspec.implementation": "tests",
    }

    @cached_property
    def shape(self) -> Mapping[str, Any]:
        """The transformer's configuration."""
        return self.files.config("transformer")

    @property
    def block_lists(self) -> Mapping[str, int]:
        return {"double_blocks": self.shape["double"], "single_blocks": self.shape["single"]}

    @property
    def text_inputs(self) -> Sequence[TextInput]:
        apart, joined = TextInput("text", 1), TextInput("stream", 0, LENGTH)
        return [apart] * self.shape["double"] + [joined] * self.shape["single"]

    @property
    def width(self) -> int:
        return self.shape["width"]

    @property
    def text_shape(self) -> TextShape:
        return TextShape(LENGTH, self.shape["text_width"], None)

    @property
    def patch(self) -> int:
        return 1

    @property
    def channels(self) -> int:
        return self.shape["channels"]

    @property
    def most_pixels(self) -> int:
        return 64 * self.size_multiple

    def placed(self, transformer: nn.Module) -> None:
        transformer.run = self.run_block

    def velocity(self, x_t: Tensor, sigma: Tensor, prompts: PromptBatch, skipped: Sequence[int] = ()) -> Tensor:
        transformer = self.transformer
        with self.base.attending():
            made = transformer(
                to_device(x_t, self.device).to(self.dtype),
                to_device(sigma, self.device),
                to_device(prompts.context, self.device).to(self.dtype),
                tuple(skipped),
            )
        return made.float()

    # Text

    @cached_property
    def tokenizer(self) -> Any:
        """The only tokenizer."""
        return self.files.tokenizers()[0]

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], progress: Progress = iter) -> list[TextStates]:
        encoder = self.load("text_encoder", "cpu")
        ids = self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=LENGTH).input_ids
        return [TextStates(encoder(torch.tensor([one]))[0]) for one in progress(ids)]

    def without_encoders(self, prompts: PromptBatch, dropped: Tensor) -> PromptBatch:
        raise NotImplementedError("the toy drops nothing")

    def dropout_rates(self, data: DataSettings) -> Sequence[float]:
        return ()

    def learned_words(self, starts: Mapping[str, tuple[str, int]]) -> Words:
        raise ModelError("The toy has no learned words.", "Choose another method.")

    def count_tokens(self, texts: Sequence[str]) -> list[list[TokenCount]]:
        ids = self.tokenizer(list(texts), truncation=False, verbose=False).input_ids if texts else []
        return [[TokenCount("the encoder", len(one), LENGTH)] for one in ids]

    def token_positions(self, text: str, span: tuple[int, int]) -> list[list[int]]:
        encoded = self.tokenizer(text, truncation=True, max_length=LENGTH, return_offsets_mapping=True)
        offsets = enumerate(encoded["offset_mapping"])
        return [[place for place, (begin, end) in offsets if begin < span[1] and end > span[0] and end > begin]]

    def text_fingerprint(self) -> str:
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        key = {"weights": self.files.weights("text_encoder").fingerprint(), "words": tokenizer["model"]}
        return fingerprint.of_key(key | {"dtype": str(self.dtype)})

    def count_text(self) -> Footprint:
        encoder, ids = self.load("text_encoder"), torch.zeros(self.texts_at_once, LENGTH, dtype=torch.long, device=META)
        return count_pass(encoder, lambda: encoder(ids))
