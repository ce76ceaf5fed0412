"""The dual-branch scheduler: which passes a step runs, with whose weights, with or without gradient, in which batches.

All branches share one frozen transformer; a branch only says which adapter and concept embeddings its rows use.
A step's predictions run as two batches, those without gradient first, so that no graph is alive meanwhile. So both
parts of every difference (target and its reference, complete and base where both learn) run in one batch and one
precision.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from library.adapters.linear import Facts
from library.adapters.network import AdapterNetwork
from library.flow import interpolate, velocity_target
from library.hierarchical_embedding_injector import (
    ConceptEmbeddings,
    HierarchicalEmbeddingInjector,
    placements_of,
)
from library.models.family import FlowModel
from library.models.interface import PromptBatch
from library.predictions import REPLAYED, Predicted, Prediction, Reading, Truth, Velocities
from library.transfer import to_device


@dataclass(frozen=True)
class Branch:
    """Whose weights predict.

    Args:
        adapters: the adapter for each concept's rows; rows of other concepts, or of none, use `default`.
        embeddings: the learned vectors of each concept; other concepts keep their own hidden states.
        default: the adapter of all other rows; None: only the pretrained weights.
        reader: recomputes the states of prompts, with words that learn; None: keeps the encoders' states.
        compared: vectors of each concept that replace no states; the states in their places are compared with them.
    """

    adapters: Mapping[str, str]
    embeddings: Mapping[str, ConceptEmbeddings]
    default: str | None = None
    reader: Callable[[PromptBatch], PromptBatch] | None = None
    compared: Mapping[str, ConceptEmbeddings] = field(default_factory=dict)

    def adapter_of(self, concept: str | None) -> str | None:
        """The adapter for a row of this concept."""
        return self.default if concept is None else self.adapters.get(concept, self.default)


PRETRAINED_BRANCH = Branch({}, {})
"""Only the downloaded weights."""


@dataclass(frozen=True)
class Scene:
    """Pictures at one noise level each, and their prompts.

    Args:
        image, noise: latents, (B, C, H, W).
        sigma: (B,), 0 for image, 1 for noise.
        prompts: by the names that predictions use: complete, base, target, class, null, or those of a replayed picture.
        emphasis: weight of each place in the concept loss, (B, 1, H, W); None: all equal.
        shows_concept: whether each picture's complete prompt names the concept, (B,); None: all do.
        anchored: whether the anchor applies to each picture, (B,); None: to all.
        region: 1 where the class is in each replayed picture and 0 elsewhere, (B, 1, H, W); None: not needed.
    """

    image: Tensor
    noise: Tensor
    sigma: Tensor
    prompts: Mapping[str, PromptBatch]
    emphasis: Tensor | None = None
    shows_concept: Tensor | None = None
    anchored: Tensor | None = None
    region: Tensor | None = None

    @cached_property
    def x_t(self) -> Tensor:
        """The noisy latents."""
        return interpolate(self.image, self.noise, self.sigma)

    def part(self, rows: slice) -> Scene:
        """The same with some of its rows."""
        if len(range(*rows.indices(len(self.image)))) == len(self.image):
            return self
        return Scene(
            self.image[rows],
            self.noise[rows],
            self.sigma[rows],
            {name: batch.part(rows) for name, batch in self.prompts.items()},
            emphasis=_part(self.emphasis, rows),
            shows_concept=_part(self.shows_concept, rows),
            anchored=_part(self.anchored, rows),
            region=_part(self.region, rows),
        )

    def truth(self, device: torch.device) -> Truth:
        """What losses need to know about the pictures, on the device of the predictions."""
        return Truth(
            to_device(velocity_target(self.image, self.noise), device),
            to_device(self.sigma, device),
            emphasis=_on_device(self.emphasis, device),
            shows_concept=_on_device(self.shows_concept, device),
            anchored=_on_device(self.anchored, device),
            region=_on_device(self.region, device),
        )


def _part(tensor: Tensor | None, rows: slice) -> Tensor | None:
    return None if tensor is None else tensor[rows]


def _on_device(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else to_device(tensor, device)


@dataclass(frozen=True)
class Passes:
    """The passes of a step: each is one batch of predictions."""

    with_gradient: tuple[tuple[Prediction, ...], ...]
    without_gradient: tuple[tuple[Prediction, ...], ...]

    @property
    def counts(self) -> tuple[int, int]:
        """How many predictions run with gradient and without."""
        return sum(map(len, self.with_gradient)), sum(map(len, self.without_gradient))


class DualBranchScheduler:
    """Runs the passes of a step.

    Args:
        model: the pretrained transformer.
        network: its adapters.
        injector: puts concept vectors into its blocks.
        branches: by the name that predictions use.
        readings: everything that the stage's terms read; a step may read a part of it. Nothing else is predicted.
        together: predictions of a kind in one batch, or one by one with less memory.
    """

    def __init__(
        self,
        model: FlowModel,
        network: AdapterNetwork,
        injector: HierarchicalEmbeddingInjector,
        branches: Mapping[str, Branch],
        readings: Collection[Reading],
        together: bool = True,
    ) -> None:
        self.model = model
        self.network = network
        self.injector = injector
        self.branches = branches
        self.readings = frozenset(readings)
        self.together = together

    def passes(self, readings: Collection[Reading] | None = None) -> Passes:
        """The passes that make these readings.

        Args:
            readings: of the stage's; None: all of them.
        """
        wanted = self.readings if readings is None else readings
        learned = {reading.prediction for reading in wanted if reading.gradient}
        taken = {reading.prediction for reading in wanted} - learned
        return Passes(_batched(learned, self.together), _batched(taken, self.together))

    def predict(
        self,
        reference: Scene,
        replay: Scene | None = None,
        seed: int | None = None,
        readings: Collection[Reading] | None = None,
    ) -> Velocities:
        """The velocities of a step.

        Args:
            reference: the user's pictures.
            replay: the pretrained model's own pictures, if any are read.
            seed: of the adapters' dropout, the same in every pass, so that differences are of one network; None: none.
            readings: of the stage's; None: all of them.
        """
        passes, predicted = self.passes(readings), {}
        with torch.no_grad():
            for one in passes.without_gradient:
                predicted.update(self._run(one, reference, replay, seed))
        for one in passes.with_gradient:
            predicted.update(self._run(one, reference, replay, seed))
        device = self.model.device
        return Velocities(predicted, reference.truth(device), replay.truth(device) if replay else None)

    def _run(
        self, predictions: Sequence[Prediction], reference: Scene, replay: Scene | None, seed: int | None
    ) -> dict[Prediction, Predicted]:
        if seed is not None:
            torch.manual_seed(seed)
        scenes = [_scene_of(prediction, reference, replay) for prediction in predictions]
        prompts = [scene.prompts[p.prompt] for scene, p in zip(scenes, predictions, strict=True)]
        predicted = predict_branches(
            self.model,
            self.network,
            self.injector,
            [self.branches[prediction.branch] for prediction in predictions],
            torch.cat([scene.x_t for scene in scenes]),
            torch.cat([scene.sigma for scene in scenes]),
            prompts,
            thinned=seed is not None,
        )
        return dict(zip(predictions, predicted.split([len(scene.image) for scene in scenes]), strict=True))


def _batched(predictions: Collection[Prediction], together: bool) -> tuple[tuple[Prediction, ...], ...]:
    ordered = tuple(sorted(predictions, key=lambda prediction: (prediction.branch, prediction.prompt)))
    if not together:
        return tuple((prediction,) for prediction in ordered)
    # Replayed pictures may have another size, so they make a batch of their own.
    groups = [tuple(p for p in ordered if (p.prompt in REPLAYED) == replayed) for replayed in (False, True)]
    return tuple(group for group in groups if group)


def _scene_of(prediction: Prediction, reference: Scene, replay: Scene | None) -> Scene:
    if prediction.prompt not in REPLAYED:
        return reference
    if replay is None:
        raise ValueError(f"{prediction.prompt} needs replayed images, and there are none")
    return replay


def predict_branches(
    model: FlowModel,
    network: AdapterNetwork,
    injector: HierarchicalEmbeddingInjector,
    branches: Sequence[Branch],
    x_t: Tensor,
    sigma: Tensor,
    prompts: Sequence[PromptBatch],
    skipped: Sequence[int] = (),
    thinned: bool = False,
) -> Predicted:
    """One pass whose rows belong to several branches.

    Args:
        branches, prompts: one each; the rows of `x_t` and `sigma` follow those of the prompts.
        skipped: blocks to skip.
        thinned: learning adapters apply their dropout.
    """
    read = [part if one.reader is None else one.reader(part) for one, part in zip(branches, prompts, strict=True)]
    batch = PromptBatch.joined([_on(model.device, part) for part in read])
    branch_of_row = [branch for branch, part in zip(branches, prompts, strict=True) for _ in part.concepts]
    adapters = [branch.adapter_of(concept) for branch, concept in zip(branch_of_row, batch.concepts, strict=True)]
    placements = (
        *placements_of(batch.tokens, [branch.embeddings for branch in branch_of_row], model.device),
        *placements_of(batch.tokens, [branch.compared for branch in branch_of_row], model.device, replaces=False),
    )
    named = tuple(tuple(one.position for one in tokens if one.of_trigger) for tokens in batch.tokens)
    with (
        network.using(adapters, thinned, Facts(sigma, named)),
        injector.injecting(placements),
        injector.comparing() as distances,
    ):
        velocity = model.velocity(x_t, sigma, batch, skipped)
    return Predicted(velocity, torch.stack(distances).mean(0) if distances else velocity.new_zeros(len(velocity)))


def _on(device: torch.device, batch: PromptBatch) -> PromptBatch:
    return replace(batch, context=to_device(batch.context, device), pooled=_on_device(batch.pooled, device))
