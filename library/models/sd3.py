"""Stable Diffusion 3 and 3.5: an MMDiT with two CLIPs and a T5, from a folder in diffusers format."""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from library import fingerprint
from library.errors import ModelError
from library.live_memory import META
from library.models.counting import Footprint, count_decode, count_encode, count_text, skeleton
from library.models.interface import PromptBatch, TextStates, TokenCount
from library.models.residence import Residence, ResidentBase
from library.per_pass import PerPass, recompute_contexts

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
TEXT_BATCH = 8
"""Prompts encoded at a time."""
TILE = 512
"""Pixels on each side of a tile that is decoded by itself, with vae_tiling."""


class SD3Model:
    """See `FlowModel` for what each method gives.

    Args:
        folder: a `StableDiffusion3Pipeline` in diffusers format.
        dtype: precision of the frozen weights and of every pass.
        t5_length: tokens that T5 reads of each prompt.
        residence: how the transformer's weights lie in memory; may be changed until they are loaded.
    """

    blocks_name = "transformer_blocks"
    text_encoders_one_at_a_time = False
    """Whether they visit the device one after the other, T5 layer by layer; if not, they are there together."""

    def __init__(
        self,
        folder: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        t5_length: int,
        residence: Residence,
    ) -> None:
        self.folder, self.device, self.dtype, self.t5_length = folder, device, dtype, t5_length
        self.notices: list[str] = []
        self.residence = residence
        self._kept: tuple[PerPass, ...] = ()

    # The transformer

    @cached_property
    def transformer(self) -> nn.Module:
        from diffusers import SD3Transformer2DModel

        transformer = self._load(SD3Transformer2DModel, "transformer", torch_dtype=self.dtype)
        transformer.requires_grad_(False).eval()
        self.base = ResidentBase(transformer, self.device, self.residence)
        self.notices += self.base.notices
        transformer.enable_gradient_checkpointing(self._checkpointed)
        return transformer

    @property
    def blocks(self) -> nn.ModuleList:
        return self.transformer.transformer_blocks

    def velocity(self, x_t: Tensor, sigma: Tensor, prompts: PromptBatch) -> Tensor:
        where = {"device": self.device, "dtype": self.dtype}
        transformer = self.transformer
        with self.base.attending():
            (velocity,) = transformer(
                hidden_states=x_t.to(**where),
                timestep=sigma.to(self.device) * self.scheduler_config["num_train_timesteps"],
                encoder_hidden_states=prompts.context.to(**where),
                pooled_projections=prompts.pooled.to(**where),
                return_dict=False,
            )
        return velocity.float()

    def keep_for_recompute(self, *states: PerPass) -> None:
        self._kept = states

    def _checkpointed(self, block: nn.Module, *args: Any) -> Any:
        if block not in self.base.recomputed:
            return block(*args)
        contexts = self.base.contexts_with(recompute_contexts(self._kept))
        return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)

    # Counting

    def counted(self, residence: Residence | None = None) -> SD3Model:
        """A copy whose weights have shapes and no numbers; nothing of them is read.

        Args:
            residence: another than this model's.
        """
        other = copy.copy(self)
        for part in ("transformer", "_text_pipeline", "_vae"):
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
        encoders = [
            model._load(kind, part, dtype=self.dtype) for kind, part in zip(_text_kinds(), TEXT_ENCODERS, strict=True)
        ]
        text = count_text(encoders, self._lengths, TEXT_BATCH, self.text_encoders_one_at_a_time)
        encode = [count_encode(model._vae_for(decoding=False), *size, self.dtype) for size in set(pictures)]
        vae = model._vae_for(decoding=True)
        decode = [count_decode(vae, self.latent_shape(*size), self.dtype) for size in set(drawn)]
        largest = {"encode": encode, "decode": decode}
        return {"text": text, **{name: max(found, key=lambda one: one.total) for name, found in largest.items()}}

    # Text

    @cached_property
    def _tokenizers(self) -> list[Any]:
        """CLIP-L's, CLIP-G's and T5's."""
        from transformers import AutoTokenizer

        try:
            return [AutoTokenizer.from_pretrained(self.folder / name, local_files_only=True) for name in TOKENIZERS]
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"{self.folder}: a tokenizer can't be loaded: {reason}.", "Download the model again."
            ) from error

    @property
    def clip_length(self) -> int:
        """Tokens that CLIP reads of each prompt."""
        return self._tokenizers[0].model_max_length

    @property
    def _lengths(self) -> list[int]:
        return [self.clip_length, self.clip_length, self.t5_length]

    @cached_property
    def _text_pipeline(self) -> Any:
        from diffusers import StableDiffusion3Pipeline
        from transformers.utils import logging

        logging.disable_progress_bar()
        encoders = {
            name: self._load(kind, name, dtype=self.dtype).requires_grad_(False).eval().to(self.device)
            for name, kind in zip(TEXT_ENCODERS, _text_kinds(), strict=True)
        }
        tokenizers = dict(zip(TOKENIZERS, self._tokenizers, strict=True))
        return StableDiffusion3Pipeline(
            transformer=None, vae=None, scheduler=self.sampling_scheduler(), **encoders, **tokenizers
        )

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> list[TextStates]:
        states: list[TextStates] = []
        for begin in range(0, len(texts), TEXT_BATCH):
            batch = list(texts[begin : begin + TEXT_BATCH])
            context, _, pooled, _ = self._text_pipeline.encode_prompt(
                batch,
                batch,
                batch,
                device=self.device,
                do_classifier_free_guidance=False,
                max_sequence_length=self.t5_length,
            )
            states += [TextStates(c.cpu().clone(), p.cpu().clone()) for c, p in zip(context, pooled, strict=True)]
        return states

    def count_tokens(self, text: str) -> list[TokenCount]:
        return [
            TokenCount(name, len(tokenizer(text, truncation=False, verbose=False)["input_ids"]), limit)
            for name, tokenizer, limit in zip(["CLIP-L", "CLIP-G", "T5"], self._tokenizers, self._lengths, strict=True)
        ]

    def token_positions(self, text: str, span: tuple[int, int]) -> tuple[list[int], list[int]]:
        found = []
        for tokenizer, length in zip(self._tokenizers, self._lengths, strict=True):
            encoded = tokenizer(text, truncation=True, max_length=length, return_offsets_mapping=True)
            offsets = enumerate(encoded["offset_mapping"])
            found.append(
                [index for index, (begin, end) in offsets if begin < span[1] and end > span[0] and end > begin]
            )
        if found[0] != found[1]:
            raise ModelError(
                f'The two CLIP tokenizers of {self.folder} cut "{text}" differently, so its concept has no one place.'
            )
        return found[0], [self.clip_length + index for index in found[2]]

    def release_text_encoders(self) -> None:
        if self.__dict__.pop("_text_pipeline", None) is not None:
            gc.collect()  # the pipeline refers to itself
            self._empty_cache()

    # Images

    @cached_property
    def _vae(self) -> nn.Module:
        from diffusers import AutoencoderKL

        return self._load(AutoencoderKL, "vae", torch_dtype=self.dtype).requires_grad_(False).eval().to(self.device)

    def _vae_for(self, decoding: bool) -> Any:
        """The VAE; latents are always encoded in one piece, since they are what training sees."""
        vae = self._vae
        vae.use_tiling = decoding and self.residence.vae_tiling
        vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // self._vae_factor
        return vae

    @cached_property
    def vae_config(self) -> dict[str, Any]:
        """The VAE's config.json."""
        return self._json("vae/config.json")

    @property
    def _vae_factor(self) -> int:
        return 2 ** (len(self.vae_config["block_out_channels"]) - 1)

    @property
    def size_multiple(self) -> int:
        return self._vae_factor * self.transformer_config["patch_size"]

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        most = self.transformer_config["pos_embed_max_size"] * self.size_multiple
        if width % self.size_multiple or height % self.size_multiple or max(width, height) > most:
            raise ModelError(
                f"This model can't draw {width} x {height} pixels.",
                f"Width and height must be multiples of {self.size_multiple}, {most} at most: see resolution.",
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
        return self._json("transformer/config.json")

    @cached_property
    def scheduler_config(self) -> dict[str, Any]:
        """The scheduler's configuration."""
        return dict(self._scheduler.config)

    @cached_property
    def _scheduler(self) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler.from_pretrained(
            self.folder, subfolder="scheduler", local_files_only=True
        )

    def sampling_scheduler(self) -> Any:
        return copy.deepcopy(self._scheduler)

    @cached_property
    def _text_fingerprint(self) -> str:
        weights = fingerprint.of_weights(path for part in TEXT_ENCODERS for path in self._weight_files(part))
        tokenizers = [tokenizer.backend_tokenizer.to_str() for tokenizer in self._tokenizers]
        return fingerprint.of_key(
            {"weights": weights, "tokenizers": tokenizers, "t5_length": self.t5_length, "dtype": str(self.dtype)}
        )

    def text_fingerprint(self) -> str:
        return self._text_fingerprint

    @cached_property
    def _image_fingerprint(self) -> str:
        weights = fingerprint.of_weights(self._weight_files("vae"))
        return fingerprint.of_key({"weights": weights, "config": self.vae_config, "dtype": str(self.dtype)})

    def image_fingerprint(self) -> str:
        return self._image_fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        weights = fingerprint.of_weights(self._weight_files("transformer"))
        key = {"weights": weights, "config": self.transformer_config, "dtype": str(self.dtype)}
        if self.residence.quantization != "none":
            key["quantization"] = self.residence.quantization
        return fingerprint.of_key(key)

    def fingerprint(self) -> str:
        return self._fingerprint

    def _weight_files(self, part: str) -> list[Path]:
        files = sorted((self.folder / part).glob("*.safetensors"))
        if not files:
            raise ModelError(
                f"{self.folder / part} holds no .safetensors file.",
                "Download the model again; pickled weights are not read.",
            )
        return files

    def _load(self, kind: Any, part: str, **options: Any) -> Any:
        """A part of the model, from safetensors only; 16-bit files with ".fp16" in their names are found, too."""
        if self.device == META:
            return skeleton(kind, self._json(f"{part}/config.json"), self.dtype)
        only_fp16 = all(".fp16." in file.name for file in self._weight_files(part))
        try:
            return kind.from_pretrained(
                self.folder,
                subfolder=part,
                local_files_only=True,
                use_safetensors=True,
                variant="fp16" if only_fp16 else None,
                **options,
            )
        except Exception as error:  # every library has its own way to say that a file is broken
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"{self.folder / part} can't be loaded: {reason}", "Download it again.") from error

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.folder / name} can't be read: {error}.", "Download the model again.") from error

    def _empty_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _text_kinds() -> list[Any]:
    """The classes of the text encoders."""
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

    return [CLIPTextModelWithProjection, CLIPTextModelWithProjection, T5EncoderModel]
