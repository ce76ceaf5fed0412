"""The interface for families of models: what the trainer needs to know about one, besides how its models predict.

A family is a folder that registers itself. It holds everything specific to the family: the model (`FlowModel`), its
text streams, the lists of its blocks, the layouts of LoRA files, how the loaders read them, and its presets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from library.adapters.lora_names import LoraNames, add_names
from library.adapters.uis.loaders import Loaders
from library.config.data_settings import DataSettings
from library.config.model_settings import ModelSettings
from library.hierarchical_embedding_injector import TextInput
from library.models.interface import (
    BaseChange,
    Progress,
    PromptBatch,
    TextShape,
    TextStates,
    TextStream,
    TokenCount,
    Words,
)
from library.models.loading.tensor_file import Entries, TensorFile
from library.models.loading.weights import PartWeights, Slot
from library.models.memory.counting import Footprint
from library.models.memory.residence import Residence, ResidentBase
from library.per_pass import PerPass


class ModelFiles(Protocol):
    """A model as files. Weights are read when a part is used, and not kept."""

    name: str
    """What messages call it."""
    family: Family
    """The family of the model."""

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a part, or of the "scheduler"."""

    def tokenizers(self) -> list[Any]:
        """The tokenizers of its text encoders, in order."""

    def weights(self, part: str) -> PartWeights:
        """The weights of a part.

        Raises:
            ModelError: they are missing or incomplete.
        """


class FlowModel(Protocol):
    """A pretrained text-to-image flow model. Its parts are loaded on first use and can be released."""

    device: torch.device
    dtype: torch.dtype
    notices: list[str]
    """What could not be done as wished, a sentence each; complete once the transformer is loaded."""

    @property
    def block_lists(self) -> Mapping[str, int]:
        """The lists of blocks inside the transformer, in the order in which they run: each one's name and number of
        blocks."""

    @property
    def width(self) -> int:
        """Width of the text stream inside the blocks."""

    @property
    def streams(self) -> Sequence[TextStream]:
        """The runs of tokens that make up the text stream."""

    @property
    def text_shape(self) -> TextShape:
        """The size of a prompt's states, as encoders return them."""

    @property
    def family(self) -> Family:
        """The family of the model."""

    @property
    def texts_at_once(self) -> int:
        """How many texts are encoded together; `footprints` counts their arithmetic."""

    @property
    def encoders(self) -> Sequence[str]:
        """The text encoders' names in messages."""

    @property
    def size_multiple(self) -> int:
        """Width and height of pictures must be multiples of this, in pixels."""

    def velocity(self, x_t: Tensor, sigma: Tensor, prompts: PromptBatch, skipped: Sequence[int] = ()) -> Tensor:
        """Predicted velocity, (B, C, H, W) float32, of noisy latents of that shape at noise levels sigma, (B,).

        Args:
            skipped: blocks to skip.
        """

    @property
    def most_pixels(self) -> int:
        """The longest side of a picture that the model draws."""

    @property
    def described(self) -> Mapping[str, str]:
        """What the metadata of LoRA files says about the model."""

    residence: Residence
    """How the transformer's weights are in memory; may be changed until it is loaded."""
    base: ResidentBase
    """The transformer as it is in memory, once it is loaded."""

    @property
    def transformer(self) -> nn.Module:
        """The transformer, frozen; loaded now if needed."""

    def pretrained_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The transformer's weights by diffusers name, read from the files one by one, on the CPU."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks of all lists, in the order in which they run."""

    @property
    def depth(self) -> int:
        """The number of blocks; loads nothing."""

    @property
    def text_inputs(self) -> Sequence[TextInput]:
        """Where each block reads the text."""

    def keep_for_recompute(self, *states: PerPass[Any]) -> None:
        """Values that a pass depends on, restored when checkpointing runs a block again."""

    def on_top_of(self, change: BaseChange) -> FlowModel:
        """The model with a further change, before its weights are loaded.

        Raises:
            ModelError: the transformer lacks such a weight, or it has another shape.
        """

    def counted(self, residence: Residence | None = None) -> FlowModel:
        """A copy on the meta device, whose weights have shapes but no values, with this residence in memory."""

    def footprints(self, pictures: Sequence[tuple[int, int]], drawn: Sequence[tuple[int, int]]) -> dict[str, Footprint]:
        """The device memory that "text", "encode" and "decode" need, for pictures of these widths and heights."""

    def encode_text(self, texts: Sequence[str], progress: Progress = iter) -> list[TextStates]:
        """Text states of prompts, on the CPU. Loads the encoders and releases them afterwards.

        Args:
            progress: wraps the slow loop.
        """

    def without_encoders(self, prompts: PromptBatch, dropped: Tensor) -> PromptBatch:
        """The prompts with some encoders' states set to 0, in the context and in the pooled state.

        Args:
            dropped: for each row, which of `encoders` are left out, (B, encoders) bool.
        """

    def dropout_rates(self, data: DataSettings) -> Sequence[float]:
        """How often a picture is seen without each of `encoders`, from the settings; empty: never."""

    def learned_words(self, starts: Mapping[str, tuple[str, int]]) -> Words:
        """Encoders with learned rows for triggers; they stay on the CPU.

        Args:
            starts: for each concept, the word whose rows its own rows start from, and how many it gets.

        Raises:
            ModelError: the family has none.
        """

    def count_tokens(self, texts: Sequence[str]) -> list[list[TokenCount]]:
        """For each text, how many tokens each encoder needs, start and end included, and how many it takes."""

    def token_positions(self, text: str, span: tuple[int, int]) -> Sequence[list[int]]:
        """Positions of the tokens that hold these characters, for each text stream; none for cut-off ones."""

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, (C, h, w) float32 on the CPU, of pixels (3, H, W) in -1 .. 1."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in -1 .. 1, float32 on the CPU, of latents (B, C, h, w)."""

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture's latents.

        Raises:
            ModelError: the model can't draw this size.
        """

    def sampling_scheduler(self, shift: float | None = None) -> Any:
        """A fresh copy of the diffusers scheduler that the model is sampled with.

        Args:
            shift: replaces the model's own.
        """

    def text_fingerprint(self) -> str:
        """Changes whenever another encoder, length or precision would give different text states."""

    def image_fingerprint(self) -> str:
        """Changes whenever another VAE or precision would give different latents."""

    def fingerprint(self) -> str:
        """Changes when the transformer does."""

    def release_vae(self) -> None:
        """Releases the VAE."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """A family of models.

    Args:
        name: in code. title: in messages.
        pipeline: its name in model_index.json of a folder in diffusers format.
        parts, tokenizers: the subfolders of such a folder, the transformer's first.
        blank: the module of a part with this configuration, its weights on the meta device.
        slots_of: the weights of a part that a file holds, by their names in the model, and the unused ones.
        model: opens a model, without reading anything large.
        lora_names: how LoRA files name its layers. loaders: how UIs read these files.
        own_files: settings that name files of parts, by part.
        recognises: whether a single file's header belongs to a model of the family.
        called: the name of the model in such a file.
        encoder_of: which of its text encoders a file holds, if any.
        single_file: a model in one file, with separate files for some parts; None: the family has no such files.
        with_own_files: a model with some parts replaced by separate files.
        token_counts: like `FlowModel.count_tokens`, before a model is chosen; None: needs a model.
        card_presets: presets for GPUs, by the number of the model's blocks: the start of their names, and the GPUs.
    """

    name: str
    title: str
    pipeline: str
    parts: Sequence[str]
    tokenizers: Sequence[str]
    blank: Callable[[str, Mapping[str, Any]], nn.Module]
    slots_of: Callable[[str, TensorFile, Mapping[str, Any]], tuple[dict[str, Slot], list[str]]]
    model: Callable[[ModelFiles, ModelSettings, torch.device, torch.dtype], FlowModel]
    lora_names: LoraNames
    loaders: Loaders
    own_files: Mapping[str, str] = field(default_factory=dict)
    recognises: Callable[[Entries], bool] = lambda entries: False
    called: Callable[[Entries], str] = lambda entries: "a model"
    encoder_of: Callable[[Entries], str | None] = lambda entries: None
    single_file: Callable[[Path, Sequence[str]], ModelFiles] | None = None
    with_own_files: Callable[[ModelFiles, Mapping[str, Path]], ModelFiles] | None = None
    token_counts: Callable[[Sequence[str]], list[list[TokenCount]]] | None = None
    card_presets: Mapping[int, tuple[str, Sequence[int]]] = field(default_factory=dict)


FAMILIES: dict[str, Family] = {}
"""Every family by its name; `library.models` has them all."""


def register(family: Family) -> Family:
    """Registers a family, so that its models can be opened and its LoRA files read.

    Raises:
        ValueError: its name or its pipeline is already taken.
    """
    if family.name in FAMILIES or any(one.pipeline == family.pipeline for one in FAMILIES.values()):
        raise ValueError(f"there is a family {family.name} of {family.pipeline} already")
    FAMILIES[family.name] = family
    add_names(family.lora_names)
    return family
