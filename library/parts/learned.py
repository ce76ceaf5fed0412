"""The extractor and the student: what learns in each, and the branches that predict with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from library.config.dataset import Concept
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.hierarchical_embedding_injector import ConceptEmbeddings
from library.models.interface import Words
from library.parts.branching import has_extractor
from library.parts.learnable import Learnable
from library.parts.parts import STUDENT_ADAPTER, Attached, extractor_adapter, learns_words
from library.parts.words import WordReader, made_words
from library.predictions import EXTRACTOR, GUIDE, PRETRAINED, STUDENT, WORD

Start = Callable[[Concept], Tensor]
"""Gives the start of a concept's vectors, (L, tokens, width); (1, tokens, width) unless each block has its own."""


@dataclass(frozen=True)
class Extractor:
    """The extractors of all concepts, learned in stage 1 or in another run.

    Args:
        branch: predicts with their adapters and vectors.
        guide: the part of it that guides the student.
        learnables: all of their weights.
    """

    branch: Branch
    guide: Branch
    learnables: tuple[Learnable, ...]

    stage: ClassVar[str] = EXTRACTOR

    @property
    def branches(self) -> dict[str, Branch]:
        """The branches of stage 1, by the name that predictions use."""
        return {EXTRACTOR: self.branch, GUIDE: self.guide, PRETRAINED: PRETRAINED_BRANCH}

    @property
    def held(self) -> tuple[Learnable, ...]:
        """Everything that could learn, whether it does or not."""
        return self.learnables


@dataclass(frozen=True)
class Student:
    """The student, and the extractor that teaches it.

    Args:
        branch: predicts with its adapter or words, and its vectors.
        own: the student's own weights.
        extractor: its vectors are the student's, too, if both share them.
        merged: the extractor learns in the same stage.
        taught_word: the trigger word learns to work without the vectors.
        vectors: of `own`, by concept.
        words: of `own`, if the method learns words; otherwise None.
    """

    branch: Branch
    own: tuple[Learnable, ...]
    extractor: Extractor
    merged: bool
    taught_word: bool
    vectors: Mapping[str, ConceptEmbeddings]
    words: Words | None

    stage: ClassVar[str] = STUDENT

    @property
    def branches(self) -> dict[str, Branch]:
        """The branches of stage 2, by the name that predictions use."""
        word = replace(self.word, compared=self.branch.embeddings)
        return {STUDENT: self.branch, WORD: word, **self.extractor.branches}

    @property
    def word(self) -> Branch:
        """The student without its vectors: what the LoRA's file does with only the trigger word."""
        return replace(self.branch, embeddings={})

    @property
    def shown(self) -> Branch:
        """What is drawn, measured and compared: the word alone if it has learned the concept, otherwise all of it."""
        return self.word if self.taught_word else self.branch

    @property
    def learnables(self) -> tuple[Learnable, ...]:
        """Everything that learns in stage 2."""
        return (*self.own, *self.extractor.learnables) if self.merged else self.own

    @property
    def held(self) -> tuple[Learnable, ...]:
        """Everything that could learn, whether it does or not."""
        return (*self.own, *self.extractor.learnables)


Learned = Extractor | Student
"""What a stage trains."""


def fresh_extractor(parts: Attached, start: Start) -> Extractor:
    """A fresh extractor: adapters on the network, if the method has one, and vectors, if the settings ask for them."""
    adapters = extractor_adapters(parts) if has_extractor(parts.settings) else {}
    for name in adapters.values():
        parts.add_adapter(name)
    return extractor_of(parts, adapters, _fresh_vectors(parts, start))


def extractor_adapters(parts: Attached) -> dict[str, str]:
    """The name of the extractor's adapter for each concept."""
    return {concept.name: extractor_adapter(concept.name) for concept in parts.concepts}


def extractor_of(parts: Attached, adapters: Mapping[str, str], vectors: Mapping[str, ConceptEmbeddings]) -> Extractor:
    """The extractor with these adapters, which are on the network, and these vectors; both by concept."""
    loras = [_adapter(name, parts) for name in adapters.values()]
    embeddings = [_vectors(extractor_adapter(name), one) for name, one in vectors.items()]
    guided = adapters if parts.settings.pure_learning.guidance_lora else {}
    return Extractor(Branch(adapters, vectors), Branch(guided, vectors), (*loras, *embeddings))


def fresh_student(parts: Attached, extractor: Extractor, start: Start) -> Student:
    """A fresh student: a LoRA, a change of whole weights or words, with vectors if the settings say so."""
    kind, words = parts.settings.concept_embeddings.student_embeddings, None
    if learns_words(parts.settings):
        words = made_words(parts)
    else:
        parts.add_adapter(STUDENT_ADAPTER)
    vectors: Mapping[str, ConceptEmbeddings] = {}
    if kind == "own":
        vectors = parts.copied(extractor.branch.embeddings)
    elif kind == "fresh":
        vectors = _fresh_vectors(parts, start)
    return student_of(parts, extractor, vectors, words)


def student_of(
    parts: Attached, extractor: Extractor, vectors: Mapping[str, ConceptEmbeddings], words: Words | None = None
) -> Student:
    """The student with these vectors, by concept, and words.

    Args:
        vectors: its own; it may share the extractor's, too.
        words: None: its adapter is on the network.
    """
    shares = parts.settings.concept_embeddings.student_embeddings == "shared"
    embeddings = extractor.branch.embeddings if shares else vectors
    if words is None:
        main, branch = _adapter(STUDENT_ADAPTER, parts), Branch({}, embeddings, default=STUDENT_ADAPTER)
    else:
        main = Learnable("words", {"words": words}, "embedding_lr")
        branch = Branch({}, embeddings, reader=WordReader(parts, words))
    own = (main, *(_vectors(f"{STUDENT_ADAPTER}_{name}", one) for name, one in vectors.items()))
    settings = parts.settings
    return Student(branch, own, extractor, settings.pure_learning.merged, settings.teaches_word, vectors, words)


def _fresh_vectors(parts: Attached, start: Start) -> dict[str, ConceptEmbeddings]:
    if parts.settings.concept_embeddings.concept_embeddings == "none":
        return {}
    return {concept.name: parts.embeddings_from(start(concept)) for concept in parts.concepts}


def _adapter(name: str, parts: Attached) -> Learnable:
    outer = {} if parts.settings.network.loraplus_lr_ratio is None else {"up": "up_lr"}
    layers = {layer: held.adapters[name] for layer, held in parts.network.layers.items()}
    return Learnable(name, layers, "lr", outer)


def _vectors(name: str, embeddings: ConceptEmbeddings) -> Learnable:
    return Learnable(f"{name} vectors", {"vectors": embeddings}, "embedding_lr")
