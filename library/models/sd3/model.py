"""Stable Diffusion 3 and 3.5: an MMDiT with two CLIPs and a T5."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from library.config.data_settings import DataSettings
from library.config.family_settings import own_part
from library.errors import ModelError
from library.files import fingerprint
from library.hierarchical_embedding_injector import TextInput
from library.models.family import ModelFiles
from library.models.interface import Progress, PromptBatch, TextShape, TextStates, TextStream, TokenCount
from library.models.latent_model import LatentModel
from library.models.memory.counting import Footprint
from library.models.memory.residence import Residence
from library.models.sd3.bundled_tokenizers import ENCODERS, counted, positions_of
from library.models.sd3.checkpoint_layouts import TEXT_ENCODERS
from library.models.sd3.described import described
from library.models.sd3.learned_words import LearnedWords
from library.models.sd3.position_table import PositionTable
from library.models.sd3.settings import SD3DataSettings
from library.models.sd3.text_encoders import TEXT_BATCH, count_text, encode_texts
from library.transfer import to_device

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel


class SD3Model(LatentModel):
    """See `FlowModel` for what each method returns.

    Args:
        t5_length: how many tokens of each prompt T5 reads.
        masked: whether CLIP-L, CLIP-G and T5 read texts without their padding.
    """

    feed_forward = ("ff", "ff_context")
    encoders = ENCODERS
    texts_at_once = TEXT_BATCH

    def __init__(
        self,
        files: ModelFiles,
        *,
        device: torch.device,
        dtype: torch.dtype,
        t5_length: int,
        residence: Residence,
        masked: tuple[bool, bool, bool] = (False, False, False),
    ) -> None:
        super().__init__(files, device=device, dtype=dtype, residence=residence)
        self.t5_length = t5_length
        self.masked = masked

    # The transformer

    @cached_property
    def transformer_config(self) -> dict[str, Any]:
        """The transformer's config.json."""
        return self.files.config("transformer")

    def placed(self, transformer: nn.Module) -> None:
        mmdit = cast("SD3Transformer2DModel", transformer)
        PositionTable(mmdit.pos_embed, self.device)
        mmdit.enable_gradient_checkpointing(self.run_block)

    @property
    def block_lists(self) -> dict[str, int]:
        return {"transformer_blocks": self.transformer_config["num_layers"]}

    @property
    def patch(self) -> int:
        return self.transformer_config["patch_size"]

    @property
    def channels(self) -> int:
        return self.transformer_config["in_channels"]

    @property
    def most_pixels(self) -> int:
        return self.transformer_config["pos_embed_max_size"] * self.size_multiple

    @property
    def width(self) -> int:
        return self.transformer_config["caption_projection_dim"]

    @property
    def text_inputs(self) -> Sequence[TextInput]:
        return [TextInput()] * self.depth

    @property
    def described(self) -> dict[str, str]:
        return described(self.transformer_config)

    def velocity(self, x_t: Tensor, sigma: Tensor, prompts: PromptBatch, skipped: Sequence[int] = ()) -> Tensor:
        if prompts.pooled is None:
            raise TypeError("prompts of this family have a pooled state")
        device, dtype = self.device, self.dtype
        transformer = self.transformer
        with self.base.attending():
            (velocity,) = transformer(
                hidden_states=to_device(x_t, device).to(dtype),
                timestep=to_device(sigma, device) * self.scheduler_config["num_train_timesteps"],
                encoder_hidden_states=to_device(prompts.context, device).to(dtype),
                pooled_projections=to_device(prompts.pooled, device).to(dtype),
                return_dict=False,
                skip_layers=list(skipped),
            )
        return velocity.float()

    # Text

    @cached_property
    def tokenizers(self) -> list[Any]:
        """CLIP-L's, CLIP-G's and T5's."""
        return self.files.tokenizers()

    @property
    def clip_length(self) -> int:
        """How many tokens of each prompt CLIP reads."""
        return self.tokenizers[0].model_max_length

    @property
    def streams(self) -> tuple[TextStream, TextStream]:
        # The two CLIPs' states are concatenated side by side, T5's follow.
        clip = TextStream("CLIP", "clip", 0, self.clip_length)
        return clip, TextStream("T5", "t5", clip.end, self.t5_length, "t5xxl_max_token_length")

    @property
    def text_shape(self) -> TextShape:
        width, pooled = (self.transformer_config[f"{name}_dim"] for name in ("joint_attention", "pooled_projection"))
        return TextShape(self.clip_length + self.t5_length, width, pooled)

    @property
    def _lengths(self) -> list[int]:
        return [self.clip_length, self.clip_length, self.t5_length]

    def encode_text(self, texts: Sequence[str], progress: Progress = iter) -> list[TextStates]:
        read = [
            tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
            for tokenizer, length in zip(self.tokenizers, self._lengths, strict=True)
        ]
        ids = [one.input_ids for one in read]
        masks = [one.attention_mask if alone else None for one, alone in zip(read, self.masked, strict=True)]
        # The encoders never share the device with the transformer: a run plans its memory without them.
        device = torch.device("cpu") if "transformer" in self.__dict__ else self.device
        states = encode_texts(self.files, ids, self.dtype, device, progress, masks)
        self.empty_cache()
        return states

    def without_encoders(self, prompts: PromptBatch, dropped: Tensor) -> PromptBatch:
        hidden = self.files.config(TEXT_ENCODERS[0])["hidden_size"]
        projected = self.files.config(TEXT_ENCODERS[0])["projection_dim"]
        if prompts.pooled is None:
            raise TypeError("prompts of this family have a pooled state")
        context, pooled = prompts.context.clone(), prompts.pooled.clone()
        for row, (clip_l, clip_g, t5) in enumerate(dropped.tolist()):
            if clip_l:
                context[row, : self.clip_length, :hidden], pooled[row, :projected] = 0, 0
            if clip_g:
                context[row, : self.clip_length, hidden:], pooled[row, projected:] = 0, 0
            if t5:
                context[row, self.clip_length :] = 0
        return replace(prompts, context=context, pooled=pooled)

    def dropout_rates(self, data: DataSettings) -> Sequence[float]:
        own = own_part(data, SD3DataSettings)
        return own.clip_l_dropout_rate, own.clip_g_dropout_rate, own.t5_dropout_rate

    def learned_words(self, starts: Mapping[str, tuple[str, int]]) -> LearnedWords:
        # On the CPU, as in `encode_text`. With a GPU, in float32, the only precision that is fast on every processor.
        dtype = self.dtype if self.device.type == "cpu" else torch.float32
        encoders = [self.load(part, "cpu", dtype) for part in TEXT_ENCODERS[:2]]
        return LearnedWords(encoders, self.tokenizers[:2], self.clip_length, starts, self.device, masked=self.masked[0])

    def count_tokens(self, texts: Sequence[str]) -> list[list[TokenCount]]:
        return counted(self.tokenizers, self._lengths, texts)

    def token_positions(self, text: str, span: tuple[int, int]) -> tuple[list[int], list[int]]:
        clip_l, clip_g, t5 = (
            positions_of(tokenizer, length, text, span)
            for tokenizer, length in zip(self.tokenizers, self._lengths, strict=True)
        )
        if clip_l != clip_g:
            raise ModelError(
                f'The two CLIP tokenizers of {self.files.name} split "{text}" differently, so the position of its '
                "concept is unclear."
            )
        return clip_l, [self.clip_length + index for index in t5]

    def count_text(self) -> Footprint:
        return count_text([self.load(part) for part in TEXT_ENCODERS], self._lengths, TEXT_BATCH)

    @cached_property
    def _text_fingerprint(self) -> str:
        weights = [self.files.weights(part).fingerprint() for part in TEXT_ENCODERS]
        tokenizers = [json.loads(tokenizer.backend_tokenizer.to_str()) for tokenizer in self.tokenizers]
        for tokenizer in tokenizers:
            # These two are only what the last call happened to ask for.
            del tokenizer["truncation"], tokenizer["padding"]
        key = {"weights": weights, "tokenizers": tokenizers, "t5_length": self.t5_length, "dtype": str(self.dtype)}
        if any(self.masked):
            key["masked"] = self.masked
        return fingerprint.of_key(key)

    def text_fingerprint(self) -> str:
        return self._text_fingerprint
