"""What a run computes in each phase: how often it repeats what the forecast counted."""

from __future__ import annotations

from dataclasses import dataclass

from library.config.gpus import BUS, DISK, Speed
from library.drawing.sheet_maker import SHOWN_AT_STRENGTHS
from library.models.memory.work import Work
from library.predictions import EXTRACTOR, STUDENT
from library.preflight.forecast import DECODE, ENCODE, TEXT, Forecast, drawn_sizes, phase_of
from library.preflight.plan import Plan
from library.prepare.context_vectors import PICTURES_A_STEP
from library.prepare.regions import PASSES

LOADING, REPLAY, CONTEXT, SHEETS = "loading", "replay", "context", "sheets"


@dataclass(frozen=True)
class Task:
    """Work that is repeated.

    Attributes:
        times: how often; part of a batch counts as a fraction.
        moved: bytes copied between the device and the computer's memory each time, in parallel with the work.
    """

    times: float
    work: Work
    moved: float = 0

    def seconds(self, speed: Speed) -> float:
        """How long all repetitions take."""
        return self.times * max(self.work.seconds(speed), self.moved / BUS)

    @property
    def flops(self) -> float:
        """Floating-point operations of all repetitions."""
        return self.times * self.work.flops


@dataclass(frozen=True)
class Phase:
    """A part of a run.

    Attributes:
        read: bytes of the files that it reads.
    """

    name: str
    tasks: tuple[Task, ...] = ()
    read: int = 0

    def seconds(self, speed: Speed) -> float:
        """How long it takes."""
        return sum(task.seconds(speed) for task in self.tasks) + self.read / DISK

    @property
    def flops(self) -> float:
        """Its floating-point operations."""
        return sum(task.flops for task in self.tasks)


def phases(plan: Plan, predicted: Forecast) -> list[Phase]:
    """The phases of a run with an empty cache, in order. The report card is not included."""
    settings, parts = plan.settings, predicted.parts
    latents = sum((2 if picture.subset.flip_aug else 1) * len(picture.crops) for picture in plan.pictures)
    texts = Task(-(-len(plan.texts()) // plan.parts.model.texts_at_once), parts[TEXT].work)
    found = [
        Phase(TEXT, (texts,), parts[TEXT].read),
        Phase(ENCODE, (Task(latents, parts[ENCODE].work),)),
        Phase(LOADING, read=predicted.transformer),
    ]
    guided = settings.samples.passes_of_guidance
    if plan.uses_replay:
        passes = guided * settings.pure_learning.replay_images * settings.pure_learning.replay_sample_steps
        passes += _passes_of_regions(plan)
        found.append(Phase(REPLAY, (one_picture(predicted, plan.replay_size, passes),)))
    if passes := passes_of_context(plan):
        found.append(Phase(CONTEXT, (one_picture(predicted, plan.size, passes),)))
    batches = settings.optimizer.gradient_accumulation_steps
    for name, steps in plan.stage_steps.items():
        step = predicted.steps[name]
        found.append(Phase(phase_of(name), (Task(batches * steps, step.footprint.work, step.moved),)))
    return [*found, _sheets(plan, predicted)]


def one_picture(predicted: Forecast, size: tuple[int, int], passes: float) -> Task:
    """Passes of a single picture without a gradient, at a size that the forecast counted."""
    one_pass, rows = predicted.sampling[size]
    return Task(passes / rows, one_pass.footprint.work, one_pass.moved)


def passes_of_context(plan: Plan) -> int:
    """Single-picture passes that context vectors take; a pass with a gradient counts as three."""
    settings, subjects = plan.settings, _subjects(plan)
    if not settings.context.context_vectors:
        return 0
    learned = 3 * PICTURES_A_STEP * settings.context.context_train_steps * len(subjects)
    shown = sum(picture.concept.name in subjects and not picture.subset.is_reg for picture in plan.shown)
    return learned + shown * PASSES


def _passes_of_regions(plan: Plan) -> int:
    """Single-picture passes that it takes to find the class in half of the replayed pictures."""
    pure = plan.settings.pure_learning
    return pure.replay_images // 2 * PASSES if pure.surroundings_weight and _subjects(plan) else 0


def _subjects(plan: Plan) -> list[str]:
    return [one.name for one in plan.config.concepts if one.kind == "subject"]


def _sheets(plan: Plan, predicted: Forecast) -> Phase:
    """All pictures of all sheets. Those of the pretrained model and of strength 1 are drawn only once."""
    samples, steps = plan.settings.samples, plan.stage_steps[STUDENT]
    every = samples.sample_every_n_steps
    students = 1 + samples.sample_at_first + (-(-steps // every) - 1 if every else 0)
    beside = 1 if plan.settings.teaches_word else 0
    extractors = len(plan.config.concepts) if EXTRACTOR in plan.stage_steps else 0
    columns = 1 + students + beside + extractors
    decoded = 2 * students + beside + (1 + extractors if extractors else 0)
    guided, others = samples.passes_of_guidance, set(samples.sample_strengths) - {1.0}
    left, tasks, pictures = dict(SHOWN_AT_STRENGTHS), [], 0
    for prompt, size in zip(plan.samples, drawn_sizes(plan), strict=True):
        at_strengths = len(others) if left.get(prompt.kind, 0) else 0
        left[prompt.kind] = left.get(prompt.kind, 0) - 1
        drawn = samples.sample_seeds * columns + at_strengths
        passes = guided * drawn * (prompt.steps or samples.sample_steps)
        tasks.append(one_picture(predicted, size, passes))
        pictures += samples.sample_seeds * decoded + at_strengths
    return Phase(SHEETS, (*tasks, Task(pictures, predicted.parts[DECODE].work)))
