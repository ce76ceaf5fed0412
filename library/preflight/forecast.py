"""Counts the memory and arithmetic that a run needs, before any weight is read.

It counts the run's own steps on the meta device: same model, adapters, branches and losses. It adds the gaps between
tensors, from a simulation of PyTorch's allocator, and `CUDA_CONTEXT`, which is assumed, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from library.config.dataset import Concept
from library.config.gpus import BUS, Speed
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Scene
from library.hierarchical_embedding_injector import ConceptToken
from library.models.interface import PromptBatch
from library.models.memory.allocator import Event, gaps_of
from library.models.memory.counting import Footprint, footprint_of
from library.models.memory.live_memory import LiveMemory, fused_attention, held_by, storage_bytes, storage_sizes
from library.models.memory.operations import META
from library.models.memory.residence import Residence
from library.models.memory.work import Work
from library.parts.assembled import Assembled, assemble
from library.parts.branching import makes_fused_steps
from library.parts.learnable import parameters_of
from library.parts.learned import Extractor, Learned, Student, fresh_extractor, fresh_student
from library.parts.parts import Attached
from library.predictions import EXTRACTOR, REPLAYED, STUDENT
from library.preflight.plan import Plan
from library.prepare.replay import pictures_at_once

GIB = 2**30
CUDA_CONTEXT = int(0.55 * GIB)
"""Bytes that CUDA takes besides tensors: its context and kernel workspaces. Assumed; depends on GPU and driver."""
DESKTOP = int(0.9 * GIB)
"""Bytes of GPU memory that a desktop may hold. A run fits a GPU of N GB if it needs at most N GiB minus this."""
PRESETS = (6, 8, 12, 16, 24)
"""GPU sizes that have presets, in GB."""
OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2, "pagedadamw8bit": 2, "prodigy": 16}
"""Bytes of optimizer state per trained parameter; other optimizers count as AdamW."""
TEXT, ENCODE, DECODE, SAMPLING = "text encoders", "VAE", "decoding", "sampling"


@dataclass(frozen=True)
class StepCount:
    """One step of a stage: memory of its heaviest batch; arithmetic and traffic as the mean over all kinds of batches.

    Args:
        learning: number of trained parameters.
        moved: bytes copied between the device and the computer's memory: swapped blocks, and offloaded inputs of
            recomputed blocks.
    """

    footprint: Footprint
    learning: int
    flops: float
    moved: float

    def seconds(self, speed: Speed) -> float:
        """How long it takes; copies overlap with the computation."""
        return max(self.footprint.work.seconds(speed), self.moved / BUS)


@dataclass(frozen=True)
class Forecast:
    """What was counted for a run.

    Args:
        needs: what each phase needs at its peak, in the order of the phases.
        steps: one step of each stage.
        sampling: for each size (width, height) that is drawn, and for the training's own: one pass without a gradient,
            and the number of pictures in it, guidance included. The largest batch comes first.
        parts: text encoders and VAE, each for its largest input.
        transformer: bytes of its weights before quantization.
    """

    needs: dict[str, Footprint]
    steps: dict[str, StepCount]
    sampling: dict[tuple[int, int], tuple[StepCount, int]]
    parts: dict[str, Footprint]
    transformer: int

    @property
    def phases(self) -> dict[str, int]:
        """Bytes on the device at the peak of each phase, including gaps and `CUDA_CONTEXT`."""
        return {name: one.total + CUDA_CONTEXT for name, one in self.needs.items()}

    @property
    def peak(self) -> int:
        """Bytes on the device at the peak of the run."""
        return max(self.phases.values())

    def fits(self, card: int) -> bool:
        """Whether a GPU with this many bytes is enough, with a desktop on it."""
        return self.peak <= card - DESKTOP


def forecast(plan: Plan) -> Forecast:
    """Counts a run with the plan's settings and residence."""
    model, settings = plan.parts.model, plan.settings
    drawn = drawn_sizes(plan)
    parts_of = model.footprints([picture.size for picture in plan.pictures], drawn)
    steps = _steps(plan)
    guided = settings.samples.passes_of_guidance
    rows = dict.fromkeys(drawn, guided * settings.samples.sample_seeds)
    if plan.uses_replay:
        at_once = min(pictures_at_once(model.latent_shape(*plan.replay_size)), settings.pure_learning.replay_images)
        rows[plan.replay_size] = max(rows.get(plan.replay_size, 0), guided * at_once)
    rows.setdefault(plan.size, 1)
    sizes = sorted(rows, key=lambda one: one[0] * one[1] * rows[one], reverse=True)
    sampling = {size: (count_sampling(plan, size, rows[size]), rows[size]) for size in sizes}
    largest = max((one.footprint for one, _ in sampling.values()), key=lambda one: one.total)
    needs = {TEXT: parts_of["text"], ENCODE: parts_of["encode"]}
    needs |= {phase_of(name): step.footprint for name, step in steps.items()}
    needs |= {SAMPLING: largest, DECODE: beside(largest, parts_of["decode"])}
    parts = {TEXT: parts_of["text"], ENCODE: parts_of["encode"], DECODE: parts_of["decode"]}
    whole = storage_bytes(held_by(model.counted(Residence()).transformer))
    return Forecast(needs, steps, sampling, parts, whole)


def beside(resident: Footprint, other: Footprint) -> Footprint:
    """What a part needs while another part's weights are on the device."""
    return Footprint(resident.weights + other.weights, other.transient, gaps=resident.resting + other.gaps)


def drawn_sizes(plan: Plan) -> list[tuple[int, int]]:
    """Width and height of the pictures of each sample prompt."""
    width, height = plan.sheet_size
    return [(prompt.width or width, prompt.height or height) for prompt in plan.samples]


def recounted(plan: Plan, predicted: Forecast) -> Forecast:
    """The forecast with other blocks recomputed, which changes only the passes with a gradient."""
    steps = _steps(plan)
    learned = {phase_of(name): step.footprint for name, step in steps.items()}
    return replace(predicted, needs={**predicted.needs, **learned}, steps=steps)


def _steps(plan: Plan) -> dict[str, StepCount]:
    return {name: count_step(plan, name) for name in plan.stage_steps}


def phase_of(stage: str) -> str:
    """A stage's name among the phases."""
    return f"stage {1 if stage == EXTRACTOR else 2}, {stage}"


def count_step(plan: Plan, stage: str, residence: Residence | None = None) -> StepCount:
    """Counts one step of a stage at its heaviest batch.

    Args:
        residence: instead of the model's own.
    """
    settings, parts = plan.settings, counted_parts(plan, residence)
    learned = counted_extractor(parts) if stage == EXTRACTOR else counted_student(parts)
    made = assemble(learned, parts, plan.has_reg)
    learning = parameters_of(made.learnables)
    count = sum(weight.numel() for weight in learning)
    if settings.optimizer.gradient_accumulation_steps > 1:  # then gradients exist from the step's second batch on
        for weight in learning:
            weight.grad = torch.zeros_like(weight)
    if stage == STUDENT and makes_fused_steps(settings):
        for weight in learning:
            weight.register_post_accumulate_grad_hook(_let_go)
    gradients = sum(weight.grad.nbytes for weight in learning if weight.grad is not None)
    held, state = storage_sizes(_held(parts, learned)), _state_of(parts, learned)
    size, rows = heaviest_batch(plan)
    wanted = made.prompts
    words = isinstance(learned, Student) and learned.words is not None
    reference = _scene(plan, size, rows, wanted - REPLAYED, text_learns=words)
    replay = _scene(plan, plan.replay_size, rows, wanted & REPLAYED) if wanted & REPLAYED else None
    swap = parts.model.base.swap
    counted = _count_batches(made, reference, replay)
    moved = parts.model.base.bytes_offloaded + (0 if swap is None else swap.bytes_moved)
    gaps = gaps_of(held, counted.rounds, state)
    footprint = Footprint(sum(held) + gradients + sum(state), counted.peak, counted.work, gaps=gaps)
    return StepCount(footprint, count, counted.flops, moved / counted.work.batches)


@dataclass(frozen=True)
class _Batches:
    """What was counted for one batch of each kind.

    Args:
        peak: bytes at the peak.
        work: operations of all batches.
        flops: floating-point operations, as the mean over the batches.
        rounds: allocations and releases of each batch.
    """

    peak: int
    work: Work
    flops: float
    rounds: list[list[Event]]


def _count_batches(made: Assembled, reference: Scene, replay: Scene | None) -> _Batches:
    """Counts one batch of each kind. Each starts with the gradients that exist now."""
    kinds, peak, flops, rounds = made.objective.kinds, 0, 0, []
    work, before = Work(batches=len(kinds)), [(one, one.grad) for one in parameters_of(made.learnables)]
    for kind in kinds:
        for weight, gradient in before:
            weight.grad = gradient
        with fused_attention(), LiveMemory() as memory:
            kind(made.branches.predict(reference, replay, readings=kind.readings)).total.backward()
        work.operations.update(memory.work.operations)
        peak = max(peak, memory.peak)
        flops += memory.flops
        rounds.append(list(memory.events))
    return _Batches(peak, work, flops / len(kinds), rounds)


def _let_go(weight: Tensor) -> None:
    weight.grad = None


@torch.no_grad()
def count_sampling(plan: Plan, size: tuple[int, int], rows: int) -> StepCount:
    """Counts one sampling pass, without a gradient, between two steps of stage 2.

    Args:
        size: width and height of the pictures.
        rows: rows of the batch, guidance included.
    """
    parts = counted_parts(plan)
    student = counted_student(parts)
    held = [*storage_sizes(_held(parts, student)), *_state_of(parts, student)]
    scene = _scene(plan, size, rows, {"prompt"})
    with fused_attention(), LiveMemory() as memory:
        parts.velocity(PRETRAINED_BRANCH, scene.x_t, scene.sigma, [scene.prompts["prompt"]])
    moved = 0 if parts.model.base.swap is None else parts.model.base.swap.bytes_moved
    return StepCount(footprint_of(held, memory), 0, memory.flops, moved)


def _learning(states: Tensor) -> Tensor:
    """Text states that receive a gradient."""
    return states.to(META).requires_grad_()


def counted_parts(plan: Plan, residence: Residence | None = None) -> Attached:
    """The parts of a run on the meta device; the transformer has no adapters yet.

    Args:
        residence: instead of the model's own.
    """
    return replace(plan.parts, model=plan.parts.model.counted(residence)).attach()


def counted_extractor(parts: Attached) -> Extractor:
    """The run's extractor, added to counted parts. One from another run gets the shape that this run would give it."""
    return fresh_extractor(parts, partial(_zeros, parts))


def counted_student(parts: Attached) -> Student:
    """The run's student and extractor, added to counted parts."""
    return fresh_student(parts, counted_extractor(parts), partial(_zeros, parts))


def _zeros(parts: Attached, concept: Concept) -> Tensor:
    """Zeros (blocks, vectors, width) in place of a concept's initial vectors."""
    blocks = len(parts.model.blocks) if parts.settings.concept_embeddings.concept_embeddings == "per_block" else 1
    return torch.zeros(blocks, parts.layouts[concept.name].vectors, parts.model.width)


def heaviest_batch(plan: Plan) -> tuple[tuple[int, int], int]:
    """The batch that needs most: width and height of its pictures, and how many of them are in each process."""
    batches = [plan.order.batch(number) for number in range(plan.order.batches_per_epoch)]
    found = {(draws[0].picture.size, -(-len(draws) // plan.processes)) for draws in batches}
    return max(found, key=lambda one: one[0][0] * one[0][1] * one[1])


def _held(parts: Attached, learned: Learned) -> list[Tensor]:
    """The tensors of the base with all adapters, and of vectors and words."""
    beside = [tensor for one in learned.held for tensor in one.state().values()]
    return [*parts.model.base.held, *beside]


def _state_of(parts: Attached, learned: Learned) -> list[int]:
    """Bytes of each tensor that the first step of a stage leaves: optimizer state, and the average of stage 2."""
    optimizer, learning = parts.settings.optimizer, parameters_of(learned.learnables)
    bytes_each = OPTIMIZER_BYTES.get(optimizer.optimizer_type.lower(), OPTIMIZER_BYTES["adamw"])
    state = [bytes_each * weight.numel() for weight in learning]
    if learned.stage == STUDENT and optimizer.ema_decay is not None:
        state += [weight.nbytes for weight in learning]
    return state


def _scene(plan: Plan, size: tuple[int, int], rows: int, prompts: set[str], text_learns: bool = False) -> Scene:
    """A scene of zeros on the CPU; each prompt has the concept's trigger at its start.

    Args:
        text_learns: the gradient reaches the text states.
    """
    model, concept = plan.parts.model, plan.config.concepts[0]
    vectors = range(plan.parts.layouts[concept.name].vectors)
    text, pooled = model.text_shape.zeros(rows, model.dtype)
    batch = PromptBatch(
        _learning(text) if text_learns else text,
        pooled,
        (tuple(ConceptToken(index, concept.name, index) for index in vectors),) * rows,
        (concept.name,) * rows,
    )
    image = torch.zeros(rows, *model.latent_shape(*size))
    return Scene(image, image, torch.full((rows,), 0.5), dict.fromkeys(prompts, batch), region=image[:, :1])
