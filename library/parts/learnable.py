"""What learns, as one list: the optimizer, the moving average, states and the count of memory all walk it.

So nothing can learn that is not averaged, saved, restored and counted as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from library.config.settings import Settings
from library.errors import ModelError
from library.hierarchical_embedding_injector import ConceptEmbeddings
from library.objectives import EXTRACTOR
from library.parts.branching import extractor_adapters
from library.parts.parts import STUDENT_ADAPTER, Parts, extractor_adapter, learns_words


@dataclass(frozen=True)
class Learnable:
    """Weights that learn together: a LoRA, a change of whole weights, a concept's vectors, or words.

    Args:
        name: no other of the run has it.
        modules: what holds the weights, by name. Buffers do not learn, but weights mean nothing without them.
        rate: what the learning rate of its weights is called.
        rates: the same of weights that have another one, by the end of their names.
    """

    name: str
    modules: Mapping[str, nn.Module]
    rate: str
    rates: Mapping[str, str] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What learns, by name, in the order of the modules."""
        named = ((f"{name}.{end}", one) for name, held in self.modules.items() for end, one in held.named_parameters())
        return dict(named)

    def rate_of(self, weight: str) -> str:
        """What the learning rate of a weight is called."""
        return self.rates.get(weight.rpartition(".")[2], self.rate)

    def learn(self) -> None:
        """From now on it learns, with its dropout."""
        for module in self.modules.values():
            module.requires_grad_(True).train()

    def state(self) -> dict[str, Tensor]:
        """Weights and buffers as they are, by name; not copied."""
        named = {f"{name}.{end}": one for name, held in self.modules.items() for end, one in held.named_buffers()}
        return {**self.weights, **named}

    @torch.no_grad()
    def load_state(self, saved: Mapping[str, Tensor]) -> None:
        """Puts a state into weights and buffers.

        Raises:
            ModelError: names or shapes are others.
        """
        mine = self.state()
        unlike = sorted(set(mine) ^ set(saved)) or [name for name in mine if mine[name].shape != saved[name].shape]
        if unlike:
            raise ModelError(
                f"resume: the state has another {self.name} than this run: {unlike[0]} differs.",
                "Start anew with --overwrite.",
            )
        for name, tensor in mine.items():
            tensor.copy_(saved[name])


def learning_in(stage: str, settings: Settings, parts: Parts) -> list[Learnable]:
    """All that learns in a stage."""
    if stage == EXTRACTOR:
        return _extractors(settings, parts)
    if learns_words(settings):
        student = [Learnable("words", {"words": parts.words}, "embedding_lr")]
    else:
        student = [_adapter(STUDENT_ADAPTER, settings, parts)]
    own = own_vectors(settings, parts).items()
    student += [_vectors(f"{STUDENT_ADAPTER}_{name}", one) for name, one in own]
    return [*student, *_extractors(settings, parts)] if settings.pure_learning.merged else student


def _extractors(settings: Settings, parts: Parts) -> list[Learnable]:
    adapters = [_adapter(name, settings, parts) for name in extractor_adapters(settings, parts)]
    return adapters + [_vectors(extractor_adapter(name), one) for name, one in parts.extractor_embeddings.items()]


def own_vectors(settings: Settings, parts: Parts) -> dict[str, ConceptEmbeddings]:
    """The student's vectors by concept; none if it shares the extractor's."""
    return parts.student_embeddings if settings.concept_embeddings.student_embeddings in ("own", "fresh") else {}


def _adapter(name: str, settings: Settings, parts: Parts) -> Learnable:
    outer = {} if settings.network.loraplus_lr_ratio is None else {"up": "up_lr"}
    layers = {layer: held.adapters[name] for layer, held in parts.network.layers.items()}
    return Learnable(name, layers, "lr", outer)


def _vectors(name: str, embeddings: ConceptEmbeddings) -> Learnable:
    return Learnable(f"{name} vectors", {"vectors": embeddings}, "embedding_lr")


def parameters_of(learnables: Iterable[Learnable]) -> list[nn.Parameter]:
    """All of their weights."""
    return [weight for one in learnables for weight in one.weights.values()]


def freeze_all_but(learnables: Iterable[Learnable], parts: Parts) -> None:
    """Exactly these learn."""
    parts.network.train_only([])
    for one in (*parts.extractor_embeddings.values(), *parts.student_embeddings.values()):
        one.requires_grad_(False)
    if parts.words is not None:
        parts.words.requires_grad_(False)
    for learnable in learnables:
        learnable.learn()


def states_of(learnables: Iterable[Learnable]) -> dict[str, dict[str, Tensor]]:
    """The states of all of them, by name."""
    return {one.name: one.state() for one in learnables}


def restore(learnables: Iterable[Learnable], saved: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Puts saved states back.

    Raises:
        ModelError: one is missing, or does not fit.
    """
    for one in learnables:
        one.load_state(saved.get(one.name, {}))
