"""Stable Diffusion 3 and 3.5: an MMDiT with two CLIPs and a T5."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from library.errors import ModelError
from library.files import fingerprint
from library.models.interface import BaseChange, Progress, PromptBatch, TextStates, TokenCount
from library.models.loading.model_files import TEXT_ENCODERS, ModelFiles
from library.models.loading.weights import fill, needed_by, put
from library.models.memory.counting import Footprint, as_skeleton, count_decode, count_encode, count_text
from library.models.memory.operations import META
from library.models.memory.residence import Residence, ResidentBase
from library.models.modules import blank
from library.models.sd3.bundled_tokenizers import counted
from library.models.sd3.learned_words import LearnedWords
from library.models.sd3.text_encoders import TEXT_BATCH, encode_texts
from library.per_pass import PerPass, recompute_contexts
from library.transfer import to_device

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

TILE = 512
"""Pixels on each side of a tile that is decoded by itself, with vae_tiling."""


class SD3Model:
    """See `FlowModel` for what each method gives.

    Args:
        files: where its parts are.
        dtype: precision of the frozen weights and of every pass.
        t5_length: tokens that T5 reads of each prompt.
        residence: how the transformer's weights lie in memory; may be changed until they are loaded.
        masked: whether CLIP-L, CLIP-G and T5 read texts without their padding.
    """

    blocks_name = "transformer_blocks"

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
        self.files = files
        self.device = device
        self.dtype = dtype
        self.t5_length = t5_length
        self.residence = residence
        self.masked = masked
        self.notices: list[str] = []
        self._kept: tuple[PerPass[Any], ...] = ()
        self._changes: tuple[BaseChange, ...] = ()

    # The transformer

    @cached_property
    def transformer(self) -> SD3Transformer2DModel:
        transformer = cast("SD3Transformer2DModel", self._load("transformer", "cpu"))
        for change in () if self.device == META else self._changes:
            for name in change.updates:
                put(transformer, name, change.added_to(name, transformer.get_parameter(name)))
        self.base = ResidentBase(transformer, self.device, self.residence)
        self.notices += self.base.notices
        transformer.enable_gradient_checkpointing(self._checkpointed)
        return transformer

    @property
    def blocks(self) -> nn.ModuleList:
        return self.transformer.transformer_blocks

    def velocity(self, x_t: Tensor, sigma: Tensor, prompts: PromptBatch, skipped: Sequence[int] = ()) -> Tensor:
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

    def keep_for_recompute(self, *states: PerPass[Any]) -> None:
        self._kept = states

    def _checkpointed(self, block: nn.Module, *args: Any) -> Any:
        if block not in self.base.recomputed:
            return block(*args)
        contexts = self.base.contexts_with(recompute_contexts(self._kept))
        with self.base.offloading():
            return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)

    def pretrained_weights(self) -> Iterator[tuple[str, Tensor]]:
        wanted = needed_by(blank("transformer", self.transformer_config))
        for name, tensor in self.files.weights("transformer").tensors(wanted, self.dtype):
            weight = tensor.view(wanted[name].shape)
            for change in self._changes:
                weight = change.added_to(name, weight)
            yield name, weight

    def on_top_of(self, change: BaseChange) -> SD3Model:
        wanted = needed_by(blank("transformer", self.transformer_config))
        for name, shape in change.shapes.items():
            own = (len(wanted[name]), wanted[name][0].numel()) if name in wanted else None
            if shape != own:
                has = "which this model lacks" if own is None else f"as {shape}, which is {own} in this model"
                raise ModelError(f"{change.source} changes {name}, {has}.", "It was trained for another model.")
        other = copy.copy(self)
        other._changes = (*self._changes, change)
        return other

    # Counting

    def counted(self, residence: Residence | None = None) -> SD3Model:
        """A copy whose weights have shapes and no numbers; nothing of them is read.

        Args:
            residence: another than this model's.
        """
        other = copy.copy(self)
        for part in ("transformer", "_vae"):
            other.__dict__.pop(part, None)
        other.device, other.notices, other._kept = META, [], ()
        other.residence = residence or self.residence
        return other

    def footprints(self, pictures: Sequence[tuple[int, int]], drawn: Sequence[tuple[int, int]]) -> dict[str, Footprint]:
        """What text, "encode" and "decode" need on the device, at most; counted on the meta device.

        Args:
            pictures: width and height of those to encode, in pixels.
            drawn: width and height of those to decode.
        """
        model = self.counted()
        encoders = [model._load(part) for part in TEXT_ENCODERS]
        text = count_text(encoders, self._lengths, TEXT_BATCH)
        encode = [count_encode(model._vae_for(decoding=False), *size, self.dtype) for size in set(pictures)]
        vae = model._vae_for(decoding=True)
        decode = [count_decode(vae, self.latent_shape(*size), self.dtype) for size in set(drawn)]
        largest = {"encode": encode, "decode": decode}
        return {"text": text, **{name: max(found, key=lambda one: one.total) for name, found in largest.items()}}

    # Text

    @cached_property
    def tokenizers(self) -> list[Any]:
        """CLIP-L's, CLIP-G's and T5's."""
        return self.files.tokenizers()

    @property
    def clip_length(self) -> int:
        """Tokens that CLIP reads of each prompt."""
        return self.tokenizers[0].model_max_length

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
        # The encoders never share the device with the transformer: a run has planned its memory without them.
        device = torch.device("cpu") if "transformer" in self.__dict__ else self.device
        states = encode_texts(self.files, ids, self.dtype, device, progress, masks)
        self._empty_cache()
        return states

    def without_encoders(self, prompts: PromptBatch, dropped: Tensor) -> PromptBatch:
        hidden = self.files.config(TEXT_ENCODERS[0])["hidden_size"]
        projected = self.files.config(TEXT_ENCODERS[0])["projection_dim"]
        context, pooled = prompts.context.clone(), prompts.pooled.clone()
        for row, (clip_l, clip_g, t5) in enumerate(dropped.tolist()):
            if clip_l:
                context[row, : self.clip_length, :hidden], pooled[row, :projected] = 0, 0
            if clip_g:
                context[row, : self.clip_length, hidden:], pooled[row, projected:] = 0, 0
            if t5:
                context[row, self.clip_length :] = 0
        return replace(prompts, context=context, pooled=pooled)

    def learned_words(self, starts: Mapping[str, tuple[str, int]]) -> LearnedWords:
        # On the CPU, as in `encode_text`. Beside a card in float32, the one precision that every processor is quick in.
        dtype = self.dtype if self.device.type == "cpu" else torch.float32
        encoders = [self._load(part, "cpu", dtype) for part in TEXT_ENCODERS[:2]]
        return LearnedWords(encoders, self.tokenizers[:2], self.clip_length, starts, self.device, masked=self.masked[0])

    def count_tokens(self, texts: Sequence[str]) -> list[list[TokenCount]]:
        return counted(self.tokenizers, self._lengths, texts)

    def token_positions(self, text: str, span: tuple[int, int]) -> tuple[list[int], list[int]]:
        found = []
        for tokenizer, length in zip(self.tokenizers, self._lengths, strict=True):
            encoded = tokenizer(text, truncation=True, max_length=length, return_offsets_mapping=True)
            offsets = enumerate(encoded["offset_mapping"])
            found.append(
                [index for index, (begin, end) in offsets if begin < span[1] and end > span[0] and end > begin]
            )
        if found[0] != found[1]:
            raise ModelError(
                f'The two CLIP tokenizers of {self.files.name} split "{text}" differently, so the position of its '
                "concept is unclear."
            )
        return found[0], [self.clip_length + index for index in found[2]]

    # Images

    @cached_property
    def _vae(self) -> AutoencoderKL:
        return cast("AutoencoderKL", self._load("vae"))

    def _vae_for(self, decoding: bool) -> AutoencoderKL:
        """The VAE; latents are always encoded in one piece, since they are what training sees."""
        vae = self._vae
        vae.use_tiling = decoding and self.residence.vae_tiling
        vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // self._vae_factor
        return vae

    @cached_property
    def vae_config(self) -> dict[str, Any]:
        """The VAE's config.json."""
        return self.files.config("vae")

    @property
    def _vae_factor(self) -> int:
        return int(2 ** (len(self.vae_config["block_out_channels"]) - 1))

    @property
    def size_multiple(self) -> int:
        return self._vae_factor * self.transformer_config["patch_size"]

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        most = self.transformer_config["pos_embed_max_size"] * self.size_multiple
        if width % self.size_multiple or height % self.size_multiple or max(width, height) > most:
            raise ModelError(
                f"This model can't draw {width} x {height} pixels.",
                f"Set resolution so that width and height are multiples of {self.size_multiple}, at most {most}.",
            )
        channels = self.transformer_config["in_channels"]
        return channels, height // self._vae_factor, width // self._vae_factor

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        latents = self._vae_for(decoding=False).encode(pixels[None].to(self.device, self.dtype)).latent_dist
        scale, shift = self.vae_config["scaling_factor"], self.vae_config["shift_factor"] or 0.0
        return ((latents.mean[0].float() - shift) * scale).cpu(), (latents.std[0].float() * scale).cpu()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        scale, shift = self.vae_config["scaling_factor"], self.vae_config["shift_factor"] or 0.0
        vae = self._vae_for(decoding=True)
        pictures = [
            vae.decode((one[None].float() / scale + shift).to(self.device, self.dtype)).sample for one in latents
        ]
        return torch.cat(pictures).float().clamp(-1, 1).cpu()

    def release_vae(self) -> None:
        self.__dict__.pop("_vae", None)
        self._empty_cache()

    # Configuration and files

    @cached_property
    def transformer_config(self) -> dict[str, Any]:
        """The transformer's config.json."""
        return self.files.config("transformer")

    @cached_property
    def scheduler_config(self) -> dict[str, Any]:
        """The scheduler's configuration."""
        return dict(self._scheduler.config)

    @cached_property
    def _scheduler(self) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler.from_config(self.files.config("scheduler"))

    def sampling_scheduler(self, shift: float | None = None) -> Any:
        scheduler = copy.deepcopy(self._scheduler)
        return scheduler if shift is None else scheduler.from_config(scheduler.config, shift=shift)

    @cached_property
    def _text_fingerprint(self) -> str:
        weights = [self.files.weights(part).fingerprint() for part in TEXT_ENCODERS]
        tokenizers = [json.loads(tokenizer.backend_tokenizer.to_str()) for tokenizer in self.tokenizers]
        for tokenizer in tokenizers:
            # These two are no more than what the last call happened to ask for.
            del tokenizer["truncation"], tokenizer["padding"]
        key = {"weights": weights, "tokenizers": tokenizers, "t5_length": self.t5_length, "dtype": str(self.dtype)}
        if any(self.masked):
            key["masked"] = self.masked
        return fingerprint.of_key(key)

    def text_fingerprint(self) -> str:
        return self._text_fingerprint

    @cached_property
    def _image_fingerprint(self) -> str:
        weights = self.files.weights("vae").fingerprint()
        return fingerprint.of_key({"weights": weights, "config": self.vae_config, "dtype": str(self.dtype)})

    def image_fingerprint(self) -> str:
        return self._image_fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        key = {"weights": self.files.weights("transformer").fingerprint(), "config": self.transformer_config}
        key["dtype"] = str(self.dtype)
        if self.residence.quantization != "none":
            key["quantization"] = self.residence.quantization
        if self._changes:
            key["changes"] = [change.fingerprint for change in self._changes]
        return fingerprint.of_key(key)

    def fingerprint(self) -> str:
        return self._fingerprint

    def _load(self, part: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        """A part with its weights in the model's precision and on its device, if no others are named."""
        module, dtype = blank(part, self.files.config(part)), dtype or self.dtype
        if self.device == META:
            return as_skeleton(module, dtype)
        return fill(module, self.files.weights(part), dtype, device or self.device)

    def _empty_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
