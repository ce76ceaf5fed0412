"""How much memory and arithmetic a run needs, counted before any weight is read.

The steps counted are the run's own: same model, adapters, branches and losses, on the meta device. To the tensors
counted there come two numbers that are assumed, not measured: `CUDA_CONTEXT` and `ALLOCATOR`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from library.dual_branch_scheduler import PRETRAINED_BRANCH, Scene
from library.hierarchical_embedding_injector import ConceptToken
from library.models import FlowModel, PromptBatch
from library.models.memory.counting import Footprint
from library.models.memory.live_memory import LiveMemory, fused_attention, held_by, storage_bytes
from library.models.memory.operations import META
from library.models.memory.residence import Residence
from library.objectives import COMPLETE, EXTRACTOR, REPLAYED, STUDENT
from library.parts.branching import (
    extractor_adapters,
    makes_fused_steps,
    objective_of,
    scheduler_of,
)
from library.parts.learnable import freeze_all_but, learning_in, parameters_of
from library.parts.parts import STUDENT_ADAPTER, Parts, learns_words
from library.parts.words import build_words
from library.preflight.plan import Plan
from library.prepare.replay import pictures_at_once
from library.roofline import BUS, Speed

GIB = 2**30
CUDA_CONTEXT = int(0.55 * GIB)
"""What CUDA takes before the first tensor. Assumed; differs by card and driver."""
ALLOCATOR = int(0.10 * GIB)
"""Gaps between tensors and workspaces of kernels. Assumed."""
OVERHEAD = CUDA_CONTEXT + ALLOCATOR
DESKTOP = int(0.9 * GIB)
"""What a desktop may hold of a card's memory. A run fits a card of N GB if it needs no more than N GiB less this."""
PRESETS = (6, 8, 12, 16, 24)
"""Cards there are presets for, in GB."""
OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2, "pagedadamw8bit": 2, "prodigy": 16}
"""Bytes that an optimizer keeps for each number that learns; others are counted as AdamW."""
TEXT, ENCODE, DECODE, SAMPLING, WORDS = "text encoders", "VAE", "decoding", "sampling", "words"


@dataclass(frozen=True)
class StepCount:
    """One step of a stage."""

    footprint: Footprint
    learning: int
    """Numbers that learn."""
    flops: int
    moved: int
    """Bytes that travel between the device and the computer's memory: swapped blocks, and what blocks begin from."""

    def seconds(self, speed: Speed) -> float:
        """How long it takes; what travels does so meanwhile."""
        return max(self.footprint.work.seconds(speed), self.moved / BUS)


@dataclass(frozen=True)
class Forecast:
    """A run, counted.

    Args:
        phases: bytes on the device at the worst moment of each phase, `OVERHEAD` included, in the order they come.
        steps: one step of each stage.
        sampling: one pass of sampling, and of how many pictures, guidance included.
        parts: text encoders and VAE, each at its largest.
        transformer: bytes of its weights before they are made fewer.
        words: one pass of the fit of words; None if the run has no such words.
    """

    phases: dict[str, int]
    steps: dict[str, StepCount]
    sampling: tuple[StepCount, int]
    parts: dict[str, Footprint]
    transformer: int
    words: StepCount | None = None

    @property
    def peak(self) -> int:
        """Bytes on the device at the worst moment of the run."""
        return max(self.phases.values())

    def fits(self, card: int) -> bool:
        """Whether a card of so many bytes suffices, with a desktop on it."""
        return self.peak <= card - DESKTOP


def forecast(plan: Plan) -> Forecast:
    """Counts a run with the settings and the residence that the plan has."""
    model, settings = plan.parts.model, plan.settings
    drawn = [(prompt.width or plan.size[0], prompt.height or plan.size[1]) for prompt in plan.samples]
    parts_of = model.footprints([picture.size for picture in plan.pictures], drawn)
    steps = _steps(plan)
    guided = 2 if settings.samples.guidance_scale > 1 else 1
    rows = dict.fromkeys(drawn, guided * settings.samples.sample_seeds)
    if plan.uses_replay:
        rows[plan.size] = max(rows.get(plan.size, 0), guided * pictures_at_once(model.latent_shape(*plan.size)))
    size = max(rows, key=lambda one: one[0] * one[1] * rows[one])
    sampling = count_sampling(plan, size, rows[size])
    phases = {TEXT: parts_of["text"].total, ENCODE: parts_of["encode"].total}
    phases |= {phase_of(name): step.footprint.total for name, step in steps.items()}
    resident = steps[STUDENT].footprint.weights
    phases |= {SAMPLING: sampling.footprint.total, DECODE: resident + parts_of["decode"].total}
    words = count_words(plan) if settings.fits_words else None
    phases |= {WORDS: words.footprint.total} if words else {}
    with_overhead = {name: size + OVERHEAD for name, size in phases.items()}
    parts = {TEXT: parts_of["text"], ENCODE: parts_of["encode"], DECODE: parts_of["decode"]}
    whole = storage_bytes(held_by(model.counted(Residence()).transformer))
    return Forecast(with_overhead, steps, (sampling, rows[size]), parts, whole, words)


def recounted(plan: Plan, predicted: Forecast) -> Forecast:
    """The same with other blocks recomputed, which changes what has a gradient alone."""
    steps = _steps(plan)
    learned = {phase_of(name): step.footprint.total + OVERHEAD for name, step in steps.items()}
    words = count_words(plan) if predicted.words else None
    learned |= {WORDS: words.footprint.total + OVERHEAD} if words else {}
    return replace(predicted, phases={**predicted.phases, **learned}, steps=steps, words=words)


def _steps(plan: Plan) -> dict[str, StepCount]:
    return {name: count_step(plan, name) for name in plan.stage_steps}


def phase_of(stage: str) -> str:
    """What a stage is called among the phases."""
    return f"stage {1 if stage == EXTRACTOR else 2}, {stage}"


def count_step(plan: Plan, stage: str, residence: Residence | None = None) -> StepCount:
    """One step of a stage at its heaviest batch.

    Args:
        residence: another than the model's.
    """
    settings, parts = plan.settings, counted_parts(plan, stage, residence)
    objective = objective_of(stage, settings, plan.has_reg)
    learnables = learning_in(stage, settings, parts)
    freeze_all_but(learnables, parts)
    learning = parameters_of(learnables)
    count = sum(weight.numel() for weight in learning)
    if settings.optimizer.gradient_accumulation_steps > 1:  # then gradients are there from the step's second batch on
        for weight in learning:
            weight.grad = torch.zeros_like(weight)
    if stage == STUDENT and makes_fused_steps(settings):
        for weight in learning:
            weight.register_post_accumulate_grad_hook(_let_go)
    weights = storage_bytes(_held(parts)) + sum(weight.grad.nbytes for weight in learning if weight.grad is not None)
    state = count * OPTIMIZER_BYTES.get(settings.optimizer.optimizer_type.lower(), OPTIMIZER_BYTES["adamw"])
    if stage == STUDENT and settings.optimizer.ema_decay is not None:
        state += sum(weight.nbytes for weight in learning)
    scheduler = scheduler_of(objective, settings, parts)
    size, rows = heaviest_batch(plan)
    wanted = {reading.prediction.prompt for reading in objective.readings}
    reference = _scene(plan, size, rows, wanted - REPLAYED)
    replay = _scene(plan, plan.size, rows, wanted & REPLAYED) if wanted & REPLAYED else None
    swap = parts.model.base.swap
    if parts.words is not None:  # the gradient goes all the way to the text
        for prompts in reference.prompts.values():
            object.__setattr__(prompts, "context", _learning(prompts.context))
    with fused_attention(), LiveMemory() as memory:
        objective(scheduler.predict(reference, replay)).total.backward()
    moved = parts.model.base.bytes_offloaded + (0 if swap is None else swap.bytes_moved)
    return StepCount(Footprint(weights + state, memory.peak, memory.work), count, memory.flops, moved)


def _let_go(weight: Tensor) -> None:
    weight.grad = None


@torch.no_grad()
def count_sampling(plan: Plan, size: tuple[int, int], rows: int) -> StepCount:
    """One pass of sampling, without gradient.

    Args:
        size: width and height of the pictures.
        rows: of the batch, guidance included.
    """
    parts = counted_parts(plan, STUDENT, None)
    scene = _scene(plan, size, rows, {"prompt"})
    with fused_attention(), LiveMemory() as memory:
        parts.velocity(PRETRAINED_BRANCH, scene.x_t, scene.sigma, [scene.prompts["prompt"]])
    moved = 0 if parts.model.base.swap is None else parts.model.base.swap.bytes_moved
    return StepCount(Footprint(storage_bytes(_held(parts)), memory.peak, memory.work), 0, memory.flops, moved)


def count_words(plan: Plan) -> StepCount:
    """A pass of the fit of words for one batch, without gradient and then with, all the way to the text.

    What the CLIPs take is not in it: they stay on the CPU.
    """
    parts = counted_parts(plan, STUDENT, None)
    freeze_all_but([], parts)
    scene = _scene(plan, *heaviest_batch(plan), {COMPLETE})
    prompts, student = scene.prompts[COMPLETE], parts.branches()[STUDENT]
    read = replace(prompts, context=_learning(prompts.context), pooled=_learning(prompts.pooled))
    with fused_attention(), LiveMemory() as memory:
        with torch.no_grad():
            parts.velocity(student, scene.x_t, scene.sigma, [prompts])
        parts.velocity(student, scene.x_t, scene.sigma, [read]).sum().backward()
    moved = 0 if parts.model.base.swap is None else parts.model.base.swap.bytes_moved
    return StepCount(Footprint(storage_bytes(_held(parts)), memory.peak, memory.work), 0, memory.flops, moved)


def _learning(states: Tensor) -> Tensor:
    """States of a text that a gradient goes to."""
    return states.to(META).requires_grad_()


def counted_parts(plan: Plan, stage: str, residence: Residence | None) -> Parts:
    """The parts of a run in a stage, on the meta device: transformer, adapters, concept embeddings, words."""
    settings = plan.settings
    model = plan.parts.model.counted(residence)
    parts = replace(
        plan.parts, model=model, settings=settings, network=None, injector=None, extractor_embeddings={},
        student_embeddings={}, words=None, reader=None,
    )  # fmt: skip
    parts.attach()
    kind = settings.concept_embeddings
    for adapter in extractor_adapters(settings, parts):
        parts.add_adapter(adapter)
    for concept in parts.concepts:
        if kind.concept_embeddings != "none":
            blocks = len(model.blocks) if kind.concept_embeddings == "per_block" else 1
            width = model.transformer_config["caption_projection_dim"]
            vectors = torch.zeros(blocks, parts.layouts[concept.name].vectors, width)
            parts.extractor_embeddings[concept.name] = parts.embeddings_from(vectors)
    if stage == STUDENT:
        if learns_words(settings):
            build_words(parts)
        else:
            parts.add_adapter(STUDENT_ADAPTER)
        if kind.student_embeddings in ("own", "fresh"):
            parts.student_embeddings = parts.copied(parts.extractor_embeddings)
        elif kind.student_embeddings == "shared":
            parts.student_embeddings = parts.extractor_embeddings
    return parts


def heaviest_batch(plan: Plan) -> tuple[tuple[int, int], int]:
    """Width and height of the pictures, and how many in each process, of the batch that takes most."""
    batches = [plan.order.batch(number) for number in range(plan.order.batches_per_epoch)]
    found = {(draws[0].picture.size, -(-len(draws) // plan.processes)) for draws in batches}
    return max(found, key=lambda one: one[0][0] * one[0][1] * one[1])


def _held(parts: Parts) -> Sequence[Tensor]:
    embeddings = [*parts.extractor_embeddings.values(), *parts.student_embeddings.values()]
    beside = [tensor for one in embeddings for tensor in one.state_dict().values()]
    return [*held_by(parts.model.transformer), *beside, *(parts.words.parameters() if parts.words else [])]


def _scene(plan: Plan, size: tuple[int, int], rows: int, prompts: set[str]) -> Scene:
    """Zeros on the CPU, in the shapes of a scene, each prompt with its concept's trigger at the begin."""
    model, concept = plan.parts.model, plan.config.concepts[0]
    vectors = range(plan.parts.layouts[concept.name].vectors)
    batch = PromptBatch(
        torch.zeros(rows, text_length(model), model.transformer_config["joint_attention_dim"], dtype=model.dtype),
        torch.zeros(rows, model.transformer_config["pooled_projection_dim"], dtype=model.dtype),
        (tuple(ConceptToken(index, concept.name, index) for index in vectors),) * rows,
        (concept.name,) * rows,
    )
    image = torch.zeros(rows, *model.latent_shape(*size))
    return Scene(image, image, torch.full((rows,), 0.5), dict.fromkeys(prompts, batch), region=image[:, :1])


def text_length(model: FlowModel) -> int:
    """Tokens of the text stream, CLIP's and T5's."""
    return model.clip_length + model.t5_length
