"""What a run will do, known before anything large is loaded: pictures, texts, steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from library.config.dataset import DatasetConfig
from library.config.settings import SavingSettings, Settings
from library.data.folder import LeftOut, left_out_of, named
from library.data.pictures import Picture, PictureOrder, find_pictures, split_validation
from library.drawing.sample_prompts import SamplePrompt, default_prompts, read_samples
from library.errors import ConfigError
from library.methods import method_of
from library.optim import check_optimizer
from library.parts.branching import reads_replay
from library.parts.network_weights import with_dim
from library.parts.parts import Opened, build_parts
from library.predictions import EXTRACTOR, STUDENT
from library.prepare.class_states import class_text
from library.prepare.replay import replay_texts
from library.prompts import NULL_PROMPT, PromptTriple
from library.saving.outputs import check_model_is_kept
from library.terminal import say

SHOWN_VARIANTS = 3
"""Most variants of a caption that the plan shows; a caption file may have more."""
SHOWN_PICTURES = 100
"""Most pictures whose texts the plan shows, and most cut-off texts that it lists."""
SHOWN_CHARACTERS = 300
"""Most characters of a text on one line."""
SIDE_OF_SHEETS = 640
"""Most pixels of the longer side of pictures on sheets."""
SMALLER_STEP = 16
"""Both sides of scaled-down pictures are multiples of this many pixels."""
COUNTED_AT_ONCE = 1000
"""Texts that are tokenized at once."""


@dataclass(frozen=True)
class Plan:
    """Everything that a run starts from."""

    config: DatasetConfig
    parts: Opened
    datasets: list[list[Picture]]
    order: PictureOrder
    samples: list[SamplePrompt]
    validation: tuple[Picture, ...] = ()
    """Pictures held out from training for the validation loss."""
    processes: int = 1
    """Number of processes that share each batch; it is this many times as large as the settings say."""
    also: tuple[str, ...] = ()
    """Texts that are needed after training; they are encoded with all others."""
    left_out: tuple[LeftOut, ...] = ()
    """What looks like training data in the data folders but is not used."""
    counted_by: str = "max_train_steps"
    """The setting that decides how long stage 2 is."""

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.parts.settings

    def with_settings(self, settings: Settings) -> Plan:
        """The plan with other settings that change neither texts nor pictures nor steps."""
        return replace(self, parts=replace(self.parts, settings=settings))

    @property
    def pictures(self) -> list[Picture]:
        """The pictures of all datasets, then the validation pictures."""
        return [*(picture for dataset in self.datasets for picture in dataset), *self.validation]

    @property
    def shown(self) -> list[Picture]:
        """The training pictures."""
        return [picture for dataset in self.datasets for picture in dataset]

    @property
    def batch_size(self) -> int:
        """Pictures per step in each process, in the dataset with the smallest batches."""
        return min(dataset.batch_size for dataset in self.config.datasets)

    @property
    def has_reg(self) -> bool:
        """Whether there are regularisation pictures."""
        return any(picture.subset.is_reg for picture in self.pictures)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the first dataset's resolution."""
        return self.config.datasets[0].resolution

    @property
    def replay_size(self) -> tuple[int, int]:
        """Width and height of replayed pictures: `size`, or smaller in the same shape."""
        return _at_most(self.settings.pure_learning.replay_resolution, self.size)

    @property
    def sheet_size(self) -> tuple[int, int]:
        """Width and height of pictures on sheets, unless the prompt sets them: `size`, or smaller in the same shape."""
        return _at_most(SIDE_OF_SHEETS, self.size)

    @property
    def uses_replay(self) -> bool:
        """Whether the pretrained model has to draw pictures."""
        return reads_replay(self.settings, self.stage_steps, self.has_reg)

    @property
    def stage_steps(self) -> dict[str, int]:
        """Steps of each stage that runs."""
        pure, optimizer = self.settings.pure_learning, self.settings.optimizer
        steps = {STUDENT: optimizer.max_train_steps}
        if not pure.merged and not pure.extractor and self.settings.needs_extractor:
            steps = {EXTRACTOR: optimizer.extractor_train_steps, **steps}
        return steps

    @property
    def triples(self) -> list[PromptTriple]:
        """The texts of every caption, without duplicates."""
        return list(dict.fromkeys(triple for picture in self.pictures for triple in picture.prompts))

    def texts(self) -> list[str]:
        """Every text to encode, without duplicates."""
        texts = [NULL_PROMPT]
        for triple in self.triples:
            texts += [triple.complete, triple.base, triple.target, triple.class_only]
        texts += [class_text(concept) for concept in self.config.concepts]
        for prompt in self.samples:
            texts += [prompt.text, prompt.base, prompt.negative]
        if self.uses_replay:
            texts += [text for _, triple in replay_texts(self.parts) for text in vars(triple).values()]
        return list(dict.fromkeys([*texts, *self.also]))


def _at_most(side: int, size: tuple[int, int]) -> tuple[int, int]:
    """The size, if necessary scaled down in the same shape until its longer side is about `side` pixels."""
    if max(size) <= side:
        return size
    width, height = (max(1, round(one * side / max(size) / SMALLER_STEP)) * SMALLER_STEP for one in size)
    return width, height


def stage_rates(settings: Settings) -> dict[str, dict[str, float]]:
    """The learning rates of each stage, by their names in the log.

    They are those of the LoRA, of the concept embeddings and, with `loraplus_lr_ratio`, of the LoRA's up matrices.
    """
    optimizer, ratio = settings.optimizer, settings.network.loraplus_lr_ratio
    first = {"lr": optimizer.extractor_learning_rate, "embedding_lr": optimizer.extractor_embedding_lr}
    rates = {"lr": optimizer.learning_rate, "embedding_lr": optimizer.embedding_lr}
    stages: dict[str, dict[str, float]] = {
        EXTRACTOR: {name: rate if (own := first[name]) is None else own for name, rate in rates.items()},
        STUDENT: rates,
    }
    if ratio is None:
        return stages
    return {stage: {**rates, "up_lr": ratio * rates["lr"]} for stage, rates in stages.items()}


def make_plan(settings: Settings, config: DatasetConfig, processes: int = 1) -> Plan:
    """Opens model and pictures and works out what a run will do; `library.preflight.checks` checks the rest.

    Args:
        processes: number of processes that share each batch.
    """
    check_model_is_kept(settings)
    parts = build_parts(settings, config.concepts)
    settings = with_dim(settings, parts.model.block_lists)
    check_optimizer(settings.optimizer, [list(rates.values()) for rates in stage_rates(settings).values()])
    seed, data = settings.optimizer.seed, settings.data
    found = find_pictures(config, parts.model.size_multiple, seed, data.caption_variants, data.random_crop_variants)
    _check_ties(settings, found)
    for size in {picture.size for dataset in found for picture in dataset}:
        parts.model.latent_shape(*size)
    batch_sizes = [processes * dataset.batch_size for dataset in config.datasets]
    datasets, validation = split_validation(config, found, seed)
    order = PictureOrder(datasets, batch_sizes, seed)
    counted_by = "max_train_steps" if settings.optimizer.max_train_epochs is None else "max_train_epochs"
    settings = for_kinds(in_steps(settings, order.batches_per_epoch), config)
    _check_steps(settings, validation)
    if settings.samples.sample_prompts:
        samples = read_samples(settings.samples.sample_prompts, config.concepts, parts.model.latent_shape)
        for sentence in dict.fromkeys(sentence for prompt in samples for sentence in prompt.passed_over):
            say(f"WARNING: {sentence}")
    else:
        shown = [picture for dataset in datasets for picture in dataset if not picture.subset.is_reg]
        first = {picture.concept.name: picture.prompts[0] for picture in reversed(shown)}
        samples = default_prompts(config.concepts, list(first.values()))
    left_out = tuple(left_out_of(config))
    return Plan(
        config,
        replace(parts, settings=settings),
        datasets,
        order,
        samples,
        tuple(validation),
        processes,
        left_out=left_out,
        counted_by=counted_by,
    )


def for_kinds(settings: Settings, config: DatasetConfig) -> Settings:
    """Turns off what only subjects use, if there is no subject. Regularisation pictures keep the anchor."""
    if any(concept.kind == "subject" for concept in config.concepts):
        return settings
    pure = replace(settings.pure_learning, surroundings_weight=0.0)
    has_reg = any(subset.is_reg for dataset in config.datasets for subset in dataset.subsets)
    if not method_of(settings).anchors_styles and not has_reg:
        pure = replace(pure, anchor_weight=0.0)
    return replace(settings, context=replace(settings.context, context_vectors=0), pure_learning=pure)


def in_steps(settings: Settings, batches_per_epoch: int) -> Settings:
    """The settings with epochs converted to steps."""
    accumulated, optimizer = settings.optimizer.gradient_accumulation_steps, settings.optimizer

    def steps(epochs: int) -> int:
        return max(1, -(-epochs * batches_per_epoch // accumulated))

    def either(group: Any, counted: str, epochs: str) -> Any:
        given = getattr(group, epochs)
        if given is None:
            return group
        return replace(group, **{counted: getattr(group, counted) or steps(given), epochs: None})

    if optimizer.max_train_epochs is not None:
        optimizer = replace(optimizer, max_train_steps=steps(optimizer.max_train_epochs), max_train_epochs=None)
    if optimizer.initial_epoch is not None:
        first = optimizer.initial_step
        begin = (steps(optimizer.initial_epoch - 1) if optimizer.initial_epoch > 1 else 0) if first is None else first
        optimizer = replace(optimizer, initial_step=begin, initial_epoch=None)
    samples = either(settings.samples, "sample_every_n_steps", "sample_every_n_epochs")
    return replace(
        settings,
        optimizer=optimizer,
        saving=_kept_in_steps(either(settings.saving, "save_every_n_steps", "save_every_n_epochs")),
        samples=either(samples, "validate_every_n_steps", "validate_every_n_epochs"),
    )


def _kept_in_steps(saving: SavingSettings) -> SavingSettings:
    """Converts save_last_n_epochs, a number of files, to the steps between the first and the last of them."""
    every = saving.save_every_n_steps
    for epochs in ("save_last_n_epochs", "save_last_n_epochs_state"):
        count = getattr(saving, epochs)
        if count is not None and every is not None:
            saving = replace(saving, **{epochs.replace("epochs", "steps"): (count - 1) * every, epochs: None})
    return saving


def _check_steps(settings: Settings, validation: Sequence[Picture]) -> None:
    optimizer = settings.optimizer
    if optimizer.initial_step and optimizer.initial_step >= optimizer.max_train_steps:
        raise ConfigError(
            f"initial_step is {optimizer.initial_step}, but stage 2 ends at max_train_steps, "
            f"{optimizer.max_train_steps}, so no step is left.",
            "Raise max_train_steps; it includes the steps before initial_step.",
        )
    if settings.saving.save_best_n and not validation:
        raise ConfigError(
            "save_best_n keeps the files with the lowest validation loss, but there are no validation images.",
            "Set validation_split, such as 0.2, to keep at least one image for validation.",
        )


def _check_ties(settings: Settings, datasets: list[list[Picture]]) -> None:
    only_tie = any(picture.subset.diff_output_preservation for pictures in datasets for picture in pictures)
    tied = settings.pure_learning.anchor_weight or method_of(settings).ties_others
    if only_tie and not tied:
        raise ConfigError(
            "diff_output_preservation uses the anchor on these images, but anchor_weight is 0.",
            "Set anchor_weight = 1.",
        )


def describe_plan(plan: Plan) -> str:
    """The plan as text: pictures and buckets, what each caption becomes, what is cut off, and the steps."""
    method = method_of(plan.settings)
    lines = [f"Method: {method.name}, which trains {method.trains}.", "Concepts"]
    for concept in plan.config.concepts:
        counts = zip(plan.parts.layouts[concept.name].counts, plan.parts.model.streams, strict=True)
        tokens = " and ".join(f"{count} {stream.name}" for count, stream in counts)
        lines.append(
            f'  {concept.name}: a {concept.kind}, trigger "{concept.trigger}" ({tokens} tokens), class '
            f'"{concept.class_word}"'
        )
    buckets: dict[tuple[int, int], int] = {}
    for picture in plan.pictures:
        buckets[picture.size] = buckets.get(picture.size, 0) + 1
    lines.append(f"Images: {len(plan.pictures)}, {plan.order.batches_per_epoch} batches per epoch")
    lines += [f"  {width} x {height}: {count}" for (width, height), count in sorted(buckets.items())]
    reg = sum(picture.subset.is_reg for picture in plan.pictures)
    if reg or plan.validation:
        lines.append(f"  of these, {reg} for regularisation and {len(plan.validation)} for the validation loss")
    lines += [f"  not used: {named(one.names)} (--doctor tells you why)" for one in plan.left_out]
    lines += ["Texts", *caption_table(plan)]
    cut = cut_off(plan, plan.texts())
    more = [f"  and {len(cut) - SHOWN_PICTURES} more"] if len(cut) > SHOWN_PICTURES else []
    lines += ["Cut off", *cut[:SHOWN_PICTURES], *more] if cut else ["No caption is cut off."]
    replay = f", {plan.settings.pure_learning.replay_images} replayed images" if plan.uses_replay else ""
    steps = ", then ".join(f"{count} steps of the {name}" for name, count in plan.stage_steps.items())
    lines.append(f"Steps: {steps}{replay}")
    if plan.processes > 1:
        lines.append(f"Processes: {plan.processes}; each step sees {plan.processes} times the batch size")
    return "\n".join(lines)


def caption_table(plan: Plan) -> list[str]:
    """What each caption becomes: complete, base and target text."""
    lines = []
    for picture in plan.pictures[:SHOWN_PICTURES]:
        (width, height), size = picture.original_size, picture.size
        variants = list(dict.fromkeys(picture.prompts))
        for triple in variants[:SHOWN_VARIANTS]:
            lines.append(f"  {picture.path.name}, {width} x {height}, shown at {size[0]} x {size[1]}")
            lines += [
                f"    {name:<9}{shortened(text)!r}" for name, text in vars(triple).items() if name != "class_only"
            ]
        if len(variants) > SHOWN_VARIANTS:
            lines.append(f"    and {len(variants) - SHOWN_VARIANTS} more variants of it")
    if len(plan.pictures) > SHOWN_PICTURES:
        lines.append(f"  and {len(plan.pictures) - SHOWN_PICTURES} more images")
    return lines


def cut_off(plan: Plan, texts: list[str]) -> list[str]:
    """One line per text and encoder that does not read all of it."""
    lines = []
    for begin in range(0, len(texts), COUNTED_AT_ONCE):
        some = texts[begin : begin + COUNTED_AT_ONCE]
        for text, counts in zip(some, plan.parts.model.count_tokens(some), strict=True):
            lines += [
                f"  {count.encoder} reads {count.limit} of the {count.needed} tokens of {shortened(text)!r}"
                for count in counts
                if count.needed > count.limit
            ]
    return lines


def shortened(text: str) -> str:
    """A text, cut to fit on one line."""
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..."
