"""What diffusers models of all families have in common: weights by part, a VAE, a flow's scheduler."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from library.errors import ModelError
from library.files import fingerprint
from library.models.family import ModelFiles
from library.models.interface import BaseChange
from library.models.loading.weights import fill, needed_by, put
from library.models.memory.counting import Footprint, as_skeleton, count_decode, count_encode
from library.models.memory.operations import META
from library.models.memory.residence import Residence, ResidentBase
from library.per_pass import PerPass, recompute_contexts

if TYPE_CHECKING:
    from typing import Self

    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

TILE = 512
"""Pixels on each side of a tile that is decoded separately, with vae_tiling."""


class LatentModel(ABC):
    """A model whose pictures are latents of diffusers' VAE; see `FlowModel` for what each method returns.

    A family adds its own parts: its transformer, its text encoders, and the abstract members here.

    Args:
        files: where its parts are.
        dtype: precision of the frozen weights and of every pass.
        residence: how the transformer's weights are kept in memory; can be changed until they are loaded.
    """

    feed_forward: ClassVar[Sequence[str]] = ()
    """The parts of a block that may be compiled."""
    base: ResidentBase

    def __init__(self, files: ModelFiles, *, device: torch.device, dtype: torch.dtype, residence: Residence) -> None:
        self.files = files
        self.family = files.family
        self.device = device
        self.dtype = dtype
        self.residence = residence
        self.notices: list[str] = []
        self._kept: tuple[PerPass[Any], ...] = ()
        self._changes: tuple[BaseChange, ...] = ()

    # Defined by the family

    @property
    @abstractmethod
    def block_lists(self) -> Mapping[str, int]:
        """See `FlowModel`."""

    @property
    @abstractmethod
    def most_pixels(self) -> int:
        """See `FlowModel`."""

    @property
    @abstractmethod
    def patch(self) -> int:
        """Side of a patch of latents, which is one token of the picture."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of the latents."""

    @abstractmethod
    def placed(self, transformer: nn.Module) -> None:
        """Prepares a transformer, on the CPU or without values, before it moves to its device: its blocks run through
        `run_block`."""

    @abstractmethod
    def count_text(self) -> Footprint:
        """The memory for encoding `texts_at_once` texts; the model is on the meta device."""

    # The transformer

    @cached_property
    def transformer(self) -> nn.Module:
        """The transformer, frozen; loaded now if needed."""
        transformer = self.load("transformer", "cpu")
        for change in () if self.device == META else self._changes:
            for name in change.updates:
                put(transformer, name, change.added_to(name, transformer.get_parameter(name)))
        self.placed(transformer)
        self.base = ResidentBase(
            transformer, self._blocks_of(transformer), self.device, self.residence, self.feed_forward
        )
        self.notices += self.base.notices
        return transformer

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self._blocks_of(self.transformer)

    def _blocks_of(self, transformer: nn.Module) -> list[nn.Module]:
        return [block for name in self.block_lists for block in transformer.get_submodule(name).children()]

    @property
    def depth(self) -> int:
        return sum(self.block_lists.values())

    def keep_for_recompute(self, *states: PerPass[Any]) -> None:
        self._kept = states

    def run_block(self, block: nn.Module, *args: Any) -> Any:
        """Runs a block; some blocks are recomputed in the backward pass."""
        if block not in self.base.recomputed:
            return block(*args)
        contexts = self.base.contexts_with(recompute_contexts(self._kept))
        with self.base.offloading():
            return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)

    def pretrained_weights(self) -> Iterator[tuple[str, Tensor]]:
        wanted = needed_by(self.family.blank("transformer", self.files.config("transformer")))
        for name, tensor in self.files.weights("transformer").tensors(wanted, self.dtype):
            weight = tensor.view(wanted[name].shape)
            for change in self._changes:
                weight = change.added_to(name, weight)
            yield name, weight

    def on_top_of(self, change: BaseChange) -> Self:
        wanted = needed_by(self.family.blank("transformer", self.files.config("transformer")))
        for name, shape in change.shapes.items():
            own = (len(wanted[name]), wanted[name][0].numel()) if name in wanted else None
            if shape != own:
                has = "which this model lacks" if own is None else f"as {shape}, which is {own} in this model"
                raise ModelError(f"{change.source} changes {name}, {has}.", "It was trained for another model.")
        other = copy.copy(self)
        other._changes = (*self._changes, change)
        return other

    # Counting

    def counted(self, residence: Residence | None = None) -> Self:
        """A copy whose weights have shapes but no values; no weights are read.

        Args:
            residence: replaces this model's.
        """
        other = copy.copy(self)
        for part in ("transformer", "_vae"):
            other.__dict__.pop(part, None)
        other.device = META
        other.notices = []
        other._kept = ()
        other.residence = residence or self.residence
        return other

    def footprints(self, pictures: Sequence[tuple[int, int]], drawn: Sequence[tuple[int, int]]) -> dict[str, Footprint]:
        model = self.counted()
        encode = [count_encode(model._vae_for(decoding=False), *size, self.dtype) for size in set(pictures)]
        vae = model._vae_for(decoding=True)
        decode = [count_decode(vae, self.latent_shape(*size), self.dtype) for size in set(drawn)]
        largest = {"encode": encode, "decode": decode}
        most = {name: max(found, key=lambda one: one.total) for name, found in largest.items()}
        return {"text": model.count_text(), **most}

    # Images

    @cached_property
    def _vae(self) -> AutoencoderKL:
        return cast("AutoencoderKL", self.load("vae"))

    def _vae_for(self, decoding: bool) -> AutoencoderKL:
        """The VAE. Latents are always encoded in one piece, since training sees them."""
        vae = self._vae
        vae.use_tiling = decoding and self.residence.vae_tiling
        vae.tile_sample_min_size = TILE
        vae.tile_latent_min_size = TILE // self._vae_factor
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
        return self._vae_factor * self.patch

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        most = self.most_pixels
        if width % self.size_multiple or height % self.size_multiple or max(width, height) > most:
            raise ModelError(
                f"This model can't draw {width} x {height} pixels.",
                f"Width and height must be multiples of {self.size_multiple}, {most} at most: see resolution.",
            )
        return self.channels, height // self._vae_factor, width // self._vae_factor

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
        self.empty_cache()

    # Configuration and files

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
    def _image_fingerprint(self) -> str:
        weights = self.files.weights("vae").fingerprint()
        return fingerprint.of_key({"weights": weights, "config": self.vae_config, "dtype": str(self.dtype)})

    def image_fingerprint(self) -> str:
        return self._image_fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        key = {"weights": self.files.weights("transformer").fingerprint(), "config": self.files.config("transformer")}
        key["dtype"] = str(self.dtype)
        if self.residence.quantization != "none":
            key["quantization"] = self.residence.quantization
        if self._changes:
            key["changes"] = [change.fingerprint for change in self._changes]
        return fingerprint.of_key(key)

    def fingerprint(self) -> str:
        return self._fingerprint

    def load(self, part: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        """A part with its weights, by default in the model's precision and on its device."""
        module, dtype = self.family.blank(part, self.files.config(part)), dtype or self.dtype
        if self.device == META:
            return as_skeleton(module, dtype)
        return fill(module, self.files.weights(part), dtype, device or self.device)

    def empty_cache(self) -> None:
        """Returns unused memory to the device."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
