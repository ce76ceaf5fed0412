"""The parts of a run: one pretrained model, the adapters and concept embeddings on it, and its branches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from library.adapters.files import SavedConcept
from library.adapters.linear import Dropout
from library.adapters.network import AdapterNetwork
from library.chance import generator_for
from library.config.dataset import Concept
from library.config.settings import SampleSettings, Settings
from library.data.texts import TextLibrary, TriggerLayout
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch, branch_velocity
from library.errors import ConfigError
from library.files.cache import Cache
from library.flow import interpolate
from library.hierarchical_embedding_injector import ConceptEmbeddings, HierarchicalEmbeddingInjector
from library.methods import METHODS
from library.models import FlowModel, PromptBatch, load_model
from library.objectives import EXTRACTOR, GUIDE, PRETRAINED, STUDENT
from library.parts.base_weights import with_base_weights
from library.prompts import derive, triggers_in

STUDENT_ADAPTER = "student"
EXTRACTED_ADAPTER = "extracted"
"""The LoRA that stands for a student that learned whole weights."""
INIT_SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Noise levels over which the class word's hidden states are averaged."""


def extractor_adapter(concept: str) -> str:
    """The name of a concept's extractor among the adapters."""
    return f"extractor_{concept}"


def learns_words(settings: Settings) -> bool:
    """Whether the student is words that stand for the concept, and no change of weights."""
    return METHODS[settings.method.method].student_weights == "words"


@dataclass
class Parts:
    """What a run, or a generation, works with."""

    settings: Settings
    concepts: list[Concept]
    model: FlowModel
    cache: Cache
    layouts: dict[str, TriggerLayout]
    texts: TextLibrary
    network: AdapterNetwork | None = None
    injector: HierarchicalEmbeddingInjector | None = None
    extractor_embeddings: dict[str, ConceptEmbeddings] = field(default_factory=dict)
    student_embeddings: dict[str, ConceptEmbeddings] = field(default_factory=dict)
    words: nn.Module | None = None
    """The learned words of a method that learns those."""
    reader: Callable[[PromptBatch], PromptBatch] | None = None
    """Reads prompts with them."""

    def attach(self, layers: Iterable[str] | None = None) -> None:
        """Loads the transformer and puts the network and the injector on it; nothing changes until adapters are used.

        Args:
            layers: by diffusers name, other ones than the settings name, inside the blocks or outside.
        """
        blocks, shape = self.model.blocks, self.settings.network
        if layers is None:
            chosen = shape.chosen_blocks(len(blocks))
            self.network = AdapterNetwork(blocks, self.model.blocks_name, shape.ranks, chosen)
        else:
            self.network = AdapterNetwork.on(self.model.transformer, layers)
        self.injector = HierarchicalEmbeddingInjector(list(blocks))
        self.model.keep_for_recompute(self.network.route, self.injector.placements)

    def branches(self) -> dict[str, Branch]:
        """The branches, as far as their adapters are there."""
        extractors = {concept.name: extractor_adapter(concept.name) for concept in self.concepts}
        guided = extractors if self.settings.pure_learning.guidance_lora else {}
        return {
            STUDENT: self._student(),
            EXTRACTOR: Branch(extractors, self.extractor_embeddings),
            GUIDE: Branch(guided, self.extractor_embeddings),
            PRETRAINED: PRETRAINED_BRANCH,
        }

    def _student(self) -> Branch:
        adapter = None if learns_words(self.settings) else STUDENT_ADAPTER
        return Branch({}, self.student_embeddings, default=adapter, reader=self.reader)

    def velocity(
        self, branch: Branch, x_t: Tensor, sigma: Tensor, prompts: list[PromptBatch], skipped: Sequence[int] = ()
    ) -> Tensor:
        """A pass of one branch over the prompts' rows, (B, C, H, W) float32, without the blocks that are skipped."""
        branches = [branch] * len(prompts)
        return branch_velocity(self.model, self.network, self.injector, branches, x_t, sigma, prompts, skipped)

    def add_adapter(self, name: str) -> None:
        """A fresh adapter of the settings' shape, the same for the same seed and name.

        The student of a method that learns whole weights is a change of these.
        """
        shape, method = self.settings.network, self.settings.method
        dtype = torch.bfloat16 if shape.full_bf16 else torch.float32
        if name == STUDENT_ADAPTER and METHODS[method.method].student_weights == "full":
            self.network.add_full(name, dtype)
            return
        generator = generator_for(self.settings.optimizer.seed, "adapter", name)
        dropout = Dropout(shape.network_dropout, shape.rank_dropout, shape.module_dropout)
        self.network.add(name, shape.ranks, shape.network_alpha, generator, dropout, dtype)

    def embeddings_from(self, vectors: Tensor) -> ConceptEmbeddings:
        """Embeddings of the settings' kind with these vectors, on the model's device."""
        every = self.settings.concept_embeddings.concept_embeddings != "first_block"
        return ConceptEmbeddings(vectors.to(self.model.device), len(self.model.blocks), every)

    def copied(self, embeddings: Mapping[str, ConceptEmbeddings]) -> dict[str, ConceptEmbeddings]:
        """Copies that learn on their own."""
        return {name: self.embeddings_from(one.vectors()) for name, one in embeddings.items()}

    def saved_concepts(self) -> list[SavedConcept]:
        """What the concept files say about each concept."""
        every = self.settings.concept_embeddings.concept_embeddings != "first_block"
        return [
            SavedConcept(
                name=concept.name,
                trigger=concept.trigger,
                class_word=concept.class_word,
                kind=concept.kind,
                target=concept.target,
                clip_tokens=self.layouts[concept.name].clip,
                t5_tokens=self.layouts[concept.name].t5,
                every_block=every,
                t5_length=self.settings.model.t5xxl_max_token_length,
            )
            for concept in self.concepts
        ]


def build_parts(settings: Settings, concepts: list[Concept]) -> Parts:
    """Opens the model; nothing heavy is loaded yet.

    Raises:
        ConfigError: skip-layer guidance names a block that the model lacks.
    """
    model = load_model(settings.model)
    _check_skipped(settings.samples, model.transformer_config["num_layers"])
    settings.network.chosen_blocks(model.transformer_config["num_layers"])
    model = with_base_weights(model, settings.network)
    cache = Cache(settings.saving.cache_dir)
    positions = settings.concept_embeddings.embedding_positions
    layouts = {concept.name: TriggerLayout(concept, model, positions) for concept in concepts}
    return Parts(settings, concepts, model, cache, layouts, TextLibrary(model, cache, list(layouts.values())))


def _check_skipped(samples: SampleSettings, blocks: int) -> None:
    unknown = [layer for layer in samples.skip_guidance_layers if not 0 <= layer < blocks]
    if samples.skip_layer_guidance_scale and unknown:
        raise ConfigError(
            f"samples: skip_guidance_layers names block {unknown[0]}; this model has blocks 0 to {blocks - 1}.",
            "Name others in skip_guidance_layers, or set skip_layer_guidance_scale = 0.",
        )


def class_text(concept: Concept) -> str:
    """A text that holds the concept's class word: the target without [V], or the word alone."""
    text = derive(concept.target, concept, "target").class_only
    return text if triggers_in(text, concept.class_word) else concept.class_word


@torch.no_grad()
def class_states(parts: Parts, concept: Concept, latents: Tensor) -> Tensor:
    """What the concept's vectors start from: the class word's hidden states at the input of each block.

    Averaged over noise levels, pictures and the word's own tokens; one mean for CLIP's places, one for T5's.

    Args:
        latents: of some of the concept's pictures, (B, C, h, w).

    Returns:
        (L, tokens, width), float32; (1, tokens, width) where all blocks share it or only the first gets one.
    """
    text, layout, model = class_text(concept), parts.layouts[concept.name], parts.model
    clip, t5 = model.token_positions(text, triggers_in(text, concept.class_word)[0])
    prompts = PromptBatch.of([parts.texts[text]] * len(latents), [None] * len(latents))
    generator = generator_for(parts.settings.optimizer.seed, "class states", concept.name)
    total = None
    for level in INIT_SIGMAS:
        sigma = torch.full((len(latents),), level)
        x_t = interpolate(latents, torch.randn(latents.shape, generator=generator), sigma)
        with parts.injector.watching() as seen:
            parts.velocity(PRETRAINED_BRANCH, x_t, sigma, [prompts])
        mean = torch.stack([states.float().mean(0) for states in seen])
        total = mean if total is None else total + mean
    states = total / len(INIT_SIGMAS)
    kinds = [states[:, clip].mean(1, keepdim=True).expand(-1, layout.clip, -1)]
    if layout.t5:
        kinds.append(states[:, t5 or clip].mean(1, keepdim=True).expand(-1, layout.t5, -1))
    vectors = torch.cat(kinds, dim=1)
    modes = {"per_block": vectors, "shared": vectors.mean(0, keepdim=True), "first_block": vectors[:1]}
    return modes[parts.settings.concept_embeddings.concept_embeddings]
