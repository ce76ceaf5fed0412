"""The parts of a run: a pretrained model and what is opened with it, then the network and the injector on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from library.adapters.files import SavedConcept
from library.adapters.linear import PLAIN, Dropout
from library.adapters.network import AdapterNetwork, endings_in
from library.chance import generator_for
from library.config.dataset import Concept
from library.config.settings import SampleSettings, Settings
from library.data.texts import TextLibrary, TriggerLayout
from library.dual_branch_scheduler import Branch, predict_branches
from library.errors import ConfigError
from library.files.cache import Cache
from library.hierarchical_embedding_injector import ConceptEmbeddings, HierarchicalEmbeddingInjector
from library.methods import method_of
from library.models.family import FlowModel
from library.models.interface import PromptBatch
from library.models.opening import load_model
from library.parts.base_weights import with_base_weights

STUDENT_ADAPTER = "student"
SAVED_ADAPTER = "saved"
"""The plain LoRA in the file of a student that is more than that: whole weights, or a LoRA that acts in parts."""


def extractor_adapter(concept: str) -> str:
    """The adapter's name for a concept's extractor."""
    return f"extractor_{concept}"


def learns_words(settings: Settings) -> bool:
    """Whether the student learns words for the concept instead of a change of weights."""
    return method_of(settings).student_weights == "words"


@dataclass(frozen=True)
class Opened:
    """The parts of a run, or a generation, before the transformer is loaded."""

    settings: Settings
    concepts: list[Concept]
    model: FlowModel
    cache: Cache
    layouts: Mapping[str, TriggerLayout]
    texts: TextLibrary

    def attach(self, layers: Iterable[str] | None = None) -> Attached:
        """Loads the transformer and puts the network and the injector on it; nothing changes until adapters are used.

        Args:
            layers: by diffusers name, instead of those in the settings, inside or outside the blocks.
        """
        transformer, shape = self.model.transformer, self.settings.network
        if layers is None:
            lists = {name: list(transformer.get_submodule(name).children()) for name in self.model.block_lists}
            endings: Iterable[str] = shape.ranks
            if shape.target_modules == method_of(self.settings).usual_layers:  # a default names all families' layers
                endings = endings_in(lists, endings) or endings
            network = AdapterNetwork(lists, endings, shape.chosen_blocks(self.model.depth))
        else:
            network = AdapterNetwork.on(transformer, layers)
        injector = HierarchicalEmbeddingInjector(self.model.blocks, self.model.text_inputs)
        self.model.keep_for_recompute(network.route, injector.placements)
        held = {one.name: getattr(self, one.name) for one in fields(Opened)}
        return Attached(**held, network=network, injector=injector)

    def saved_concepts(self) -> list[SavedConcept]:
        """The entries of the concept files for each concept."""
        every = self.settings.concept_embeddings.concept_embeddings != "first_block"
        streams = self.model.streams
        return [
            SavedConcept(
                name=concept.name,
                trigger=concept.trigger,
                class_word=concept.class_word,
                kind=concept.kind,
                target=concept.target,
                tokens={one.key: count for one, count in zip(streams, self.layouts[concept.name].counts, strict=True)},
                every_block=every,
                lengths={one.key: one.length for one in streams if one.setting},
                optional=self.settings.teaches_word,
            )
            for concept in self.concepts
        ]


@dataclass(frozen=True)
class Attached(Opened):
    """The parts once the transformer is loaded, with the network and the injector on it."""

    network: AdapterNetwork
    injector: HierarchicalEmbeddingInjector

    def velocity(
        self, branch: Branch, x_t: Tensor, sigma: Tensor, prompts: list[PromptBatch], skipped: Sequence[int] = ()
    ) -> Tensor:
        """A pass of one branch over the prompts' rows, (B, C, H, W) float32, without the skipped blocks."""
        branches = [branch] * len(prompts)
        predicted = predict_branches(self.model, self.network, self.injector, branches, x_t, sigma, prompts, skipped)
        return predicted.velocity

    def add_adapter(self, name: str) -> None:
        """A fresh adapter of the settings' shape, the same for the same seed and name.

        The student's has the form of its method; if the method learns whole weights, it is a change of those.
        """
        shape, method, form = self.settings.network, method_of(self.settings), PLAIN
        dtype = torch.bfloat16 if shape.full_bf16 else torch.float32
        if name == STUDENT_ADAPTER:
            form = method.form(self.settings) or PLAIN
        if name == STUDENT_ADAPTER and method.student_weights == "full":
            self.network.add_full(name, dtype)
            return
        generator = generator_for(self.settings.optimizer.seed, "adapter", name)
        dropout = Dropout(shape.network_dropout, shape.rank_dropout, shape.module_dropout)
        self.network.add(name, shape.ranks, shape.network_alpha, generator, dropout, dtype, form)

    def embeddings_from(self, vectors: Tensor) -> ConceptEmbeddings:
        """Embeddings of the settings' kind with these vectors, on the model's device."""
        every = self.settings.concept_embeddings.concept_embeddings != "first_block"
        return ConceptEmbeddings(vectors.to(self.model.device), len(self.model.blocks), every)

    def copied(self, embeddings: Mapping[str, ConceptEmbeddings]) -> dict[str, ConceptEmbeddings]:
        """Copies that learn independently."""
        return {name: self.embeddings_from(one.vectors()) for name, one in embeddings.items()}


def build_parts(settings: Settings, concepts: list[Concept]) -> Opened:
    """Opens the model, without loading anything large.

    Raises:
        ConfigError: skip-layer guidance names a block that the model lacks.
    """
    model = load_model(settings.model)
    _check_skipped(settings.samples, model.depth)
    settings.network.chosen_blocks(model.depth)
    model = with_base_weights(model, settings.network)
    cache = Cache(settings.saving.cache_dir)
    every_stream = settings.concept_embeddings.every_stream
    layouts = {concept.name: TriggerLayout(concept, model, every_stream) for concept in concepts}
    return Opened(settings, concepts, model, cache, layouts, TextLibrary(model, cache, list(layouts.values())))


def _check_skipped(samples: SampleSettings, blocks: int) -> None:
    unknown = [layer for layer in samples.skip_guidance_layers if not 0 <= layer < blocks]
    if samples.skip_layer_guidance_scale and unknown:
        raise ConfigError(
            f"samples: skip_guidance_layers contains block {unknown[0]}; this model has blocks 0 to {blocks - 1}.",
            "Change skip_guidance_layers, or set skip_layer_guidance_scale = 0.",
        )
