"""Several concepts' LoRAs as one: fused by what each layer sees while each is drawn, or weighed for one prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from library.adapters.extraction import extracted
from library.adapters.files import ConceptFile, SavedConcept, concept_file_of, load_lora, save_concepts, save_lora
from library.adapters.linear import AdapterLinear
from library.adapters.lora_names import Layout
from library.adapters.network import LayerWeights, LowRankWeights, check_fit
from library.config.dataset import Concept
from library.config.settings import Settings
from library.convert.aggregation import aggregated, aggregation_weights
from library.convert.gradient_fusion import fused, fused_by_lbfgs
from library.drawing.drawn import draw_latents
from library.drawing.generation import as_concept
from library.drawing.sampling import initial_noise
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.errors import ConfigError, ModelError
from library.models.interface import PromptBatch, block_of
from library.parts.parts import Attached, Opened, build_parts
from library.parts.saved_vectors import embeddings_of
from library.prepare.replay import CLASS, replay_lines, replayed_triple
from library.prompts import NULL_PROMPT, triggers_in, with_trigger
from library.report.progress import bar_over
from library.terminal import say

SCENES = 15
"""Prompts that show a concept, besides the given one."""
MOST_NEUTRAL = 32
"""Prompts that stand for everything else, half of them with a class if there are enough."""


@dataclass(frozen=True)
class Fusion:
    """How LoRAs are fused.

    Args:
        mu: how much prompts without the concepts count; 0 is as published.
        kind: "closed" is the minimum itself and stays a LoRA; "lbfgs" is as published, cut to a LoRA of the same rank.
        steps: sampling steps over which inputs are collected.
    """

    mu: float = 0.1
    kind: str = "closed"
    steps: int = 10


def fuse(
    settings: Settings, loras: Sequence[Path], prompts: Sequence[Sequence[str]], size: tuple[int, int], how: Fusion
) -> None:
    """Writes one LoRA for several, and one concept file if they have any.

    Args:
        loras: one per concept, in any layout, their concept files beside them if they have vectors.
        prompts: for each LoRA, with its trigger written out. A single one gets company: the concept in other scenes,
            if a concept file names its trigger.
        size: width and height of the pictures that inputs are collected on.

    Raises:
        ConfigError: not a prompt for each LoRA, or two concepts of one name.
    """
    if len(loras) != len(prompts) or len(loras) < 2:
        raise ConfigError(
            f"There are {len(loras)} LoRAs but {len(prompts)} prompts.",
            "Give at least two LoRAs, with one prompt each.",
        )
    vectors, of_lora = _concepts_of(loras)
    saved = [one for some in of_lora for one in some]
    opened = build_parts(settings, [as_concept(one) for one in saved])
    weights = _fitting(opened, loras)
    lines = replay_lines(settings)
    neutral = _neutral_prompts(lines, sorted({one.class_word for one in saved}))
    if not neutral:
        raise ConfigError(
            f"{settings.pure_learning.replay_prompts}: every line has {CLASS}, but no concept file of the LoRAs "
            "names a class word.",
            "Add a line without it, such as: a city street at night",
        )
    shown = [
        _with_scenes(path, texts, [as_concept(one) for one in some], lines)
        for path, texts, some in zip(loras, prompts, of_lora, strict=True)
    ]
    opened.texts.prepare([NULL_PROMPT, *(text for texts in shown for text in texts), *neutral], bar_over("text"))
    layers = sorted(set().union(*weights))
    parts = opened.attach(layers)
    for index, (path, one) in enumerate(zip(loras, weights, strict=True)):
        parts.network.load(f"concept_{index}", one, str(path))
    embeddings = embeddings_of(parts, vectors, "the concept files")
    branches = [Branch({}, embeddings, default=f"concept_{index}") for index in range(len(loras))]
    seen = [_seen(parts, branch, texts, size, how) for branch, texts in zip(branches, shown, strict=True)]
    others = _seen(parts, PRETRAINED_BRANCH, neutral, size, how)
    found = {name: _fused_layer(name, weights, seen, others, how) for name in bar_over("fusion")(layers)}
    _save(
        settings,
        found,
        vectors,
        saved,
        {"purecc_fused": ", ".join(path.name for path in loras)},
        opened.model.family.lora_names.layouts,
    )


def aggregate(settings: Settings, loras: Sequence[Path], prompt: str, size: tuple[int, int]) -> dict[str, float]:
    """Writes the LoRA that CIFC's elastic weight aggregation makes for one prompt.

    Args:
        loras: one per concept, in any layout, each with its concept file beside it.
        size: width and height of the picture at whose first noise the prompt is read.

    Returns:
        Each trigger's weight, mean over the blocks.

    Raises:
        ConfigError: a concept file is missing, or two concepts have one name or one trigger.
    """
    missing = next((path for path in loras if concept_file_of(path) is None), None)
    if missing or len(loras) < 2:
        what = f"{missing} has no concept file next to it" if missing else "There is one LoRA"
        raise ConfigError(
            f"{what}.", "Elastic weight aggregation needs at least two, trained with cifc or mix_of_show."
        )
    vectors, of_lora = _concepts_of(loras)
    saved = [one for some in of_lora for one in some]
    concepts = [as_concept(one) for one in saved]
    if len({one.trigger for one in concepts}) < len(concepts):
        raise ConfigError(
            f'Two of the concepts have the trigger "{concepts[0].trigger}".', "Train one of them with another trigger."
        )
    opened = build_parts(settings, concepts)
    layers = _fitting(opened, loras)
    for path, one in zip(loras, layers, strict=True):
        outside = [name for name in one if block_of(name, opened.model.block_lists) is None]
        if outside:
            raise ModelError(
                f"{path} changes layers outside the transformer blocks, such as {outside[0]}.",
                "Elastic weight aggregation only works on layers inside the blocks.",
            )
    opened.texts.prepare([prompt, *target_texts(concepts)], bar_over("text"))
    parts = opened.attach()
    weights = Aggregation(parts, vectors, size).weights(prompt)
    found = weighed(layers, weights, opened.model.block_lists)
    _save(settings, found, vectors, saved, {"purecc_aggregated_for": prompt}, opened.model.family.lora_names.layouts)
    return dict(zip([one.trigger for one in concepts], weights.mean(0).tolist(), strict=True))


def scenes(lines: Sequence[str], concept: Concept) -> list[str]:
    """Prompts with a concept's trigger in different scenes, made of the lines for replayed images; `SCENES` at most."""
    some = [line for line in lines if concept.kind == "subject" or CLASS not in line]
    triples = [replayed_triple(line, concept) for line in some]
    return [*dict.fromkeys(one.complete for one in triples if one.complete != one.base)][:SCENES]


def target_texts(concepts: Sequence[Concept]) -> list[str]:
    """The prompts that show concepts' own tokens, one each."""
    return [with_trigger(one.target, one) for one in concepts]


class Aggregation:
    """How strongly each concept's LoRA acts for a prompt.

    Args:
        parts: attached; its texts have the prompts and `target_texts` of its concepts.
        vectors: of each concept, by name.
        size: width and height of the picture at whose first noise prompts are read.
    """

    def __init__(self, parts: Attached, vectors: Mapping[str, Tensor], size: tuple[int, int]) -> None:
        self.parts = parts
        self._branch = Branch({}, embeddings_of(parts, dict(vectors), "the concept files"))
        noise = initial_noise(parts.model.latent_shape(*size), parts.settings.optimizer.seed)[None]
        self._noise = noise.to(parts.model.device)
        self._own = [
            self._features(text, triggers_in(text, one.trigger)[0])
            for text, one in zip(target_texts(parts.concepts), parts.concepts, strict=True)
        ]

    def weights(self, prompt: str) -> Tensor:
        """psi in each block, (L, concepts) float32."""
        blocks = zip(self._features(prompt, (0, len(prompt))), *self._own, strict=True)
        return torch.stack([aggregation_weights(tokens, own) for tokens, *own in blocks])

    @torch.no_grad()
    def _features(self, text: str, span: tuple[int, int]) -> list[Tensor]:
        """The states of the first text stream's tokens in this place, as each block reads them, (T, width) each."""
        positions = self.parts.model.token_positions(text, span)[0]
        prompts = PromptBatch.of([self.parts.texts[text]], [None])
        with self.parts.injector.watching() as seen:
            self.parts.velocity(self._branch, self._noise, torch.ones(1), [prompts])
        return [states[0, positions].float().cpu() for states in seen]


def weighed(
    loras: Sequence[LowRankWeights], weights: Tensor, block_lists: Mapping[str, int]
) -> dict[str, LayerWeights]:
    """The sum of LoRAs as one, each at its weight in every block; a layer that some lack is the sum of the others.

    Args:
        weights: (L, LoRAs).
        block_lists: see `FlowModel`; all layers are in blocks.
    """
    found = {}
    for name in sorted(set().union(*loras)):
        block = block_of(name, block_lists)
        if block is None:
            raise ValueError(f"{name} is in no block, so it has no weight")
        of_block = weights[block].tolist()
        some = [(one[name], weight) for one, weight in zip(loras, of_block, strict=True) if name in one]
        found[name] = aggregated([layer for layer, _ in some], [weight for _, weight in some])
    return found


def _save(
    settings: Settings,
    layers: Mapping[str, LayerWeights],
    vectors: Mapping[str, Tensor],
    saved: Sequence[SavedConcept],
    about: Mapping[str, str],
    layouts: Mapping[str, Layout],
) -> None:
    name, saving = settings.saving.output_name, settings.saving
    paths = save_lora(settings.output_dir, name, layers, saving.save_precision, about, saving.save_formats, layouts)
    for path in paths:
        say(f"Saved {path}")
    if saved:
        save_concepts(settings.output_dir / f"{name}_concept.safetensors", vectors, saved)


def _fitting(parts: Opened, loras: Sequence[Path]) -> list[dict[str, LayerWeights]]:
    """The layers of each LoRA, checked on the meta device before minutes are spent on the real model.

    Raises:
        ModelError: one is not for this model.
    """
    counted, blocks = parts.model.counted().transformer, parts.model.depth
    found = [load_lora(path, blocks) for path in loras]
    for path, one in zip(loras, found, strict=True):
        check_fit(counted, one, str(path))
    return found


def _concepts_of(loras: Sequence[Path]) -> tuple[dict[str, Tensor], list[list[SavedConcept]]]:
    """The vectors that act, and the concepts of each LoRA that has a concept file."""
    vectors: dict[str, Tensor] = {}
    found: list[list[SavedConcept]] = []
    for file in map(concept_file_of, loras):
        tensors, concepts = ConceptFile(file).load() if file else ({}, [])
        twice = {one.name for one in concepts} & {one.name for some in found for one in some}
        if twice:
            raise ConfigError(f'Two of the LoRAs have a concept named "{min(twice)}".', "Rename one of them.")
        vectors |= tensors
        found.append(concepts)
    return vectors, found


def _neutral_prompts(lines: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Prompts without a concept: with a class and without, half each if there are enough, and the empty one never."""
    of_class = [line.replace(CLASS, word) for line in lines if CLASS in line for word in classes]
    others = [line for line in lines if line and CLASS not in line]
    halves = [*dict.fromkeys(of_class)][: MOST_NEUTRAL // 2], [*dict.fromkeys(others)][: MOST_NEUTRAL // 2]
    return [text for half in halves for text in half]


def _with_scenes(lora: Path, texts: Sequence[str], concepts: Sequence[Concept], lines: Sequence[str]) -> list[str]:
    """The prompts to see a LoRA on: the given ones, and scenes of the concepts that a single one names."""
    if len(texts) > 1:
        return [*texts]
    named = [one for one in concepts if triggers_in(texts[0], one.trigger)]
    if not named:
        say(f"{lora.name}: no concept file names the trigger, so one prompt is all that it is fused on.")
    return [*dict.fromkeys([*texts, *(text for one in named for text in scenes(lines, one))])]


def _fused_layer(
    name: str,
    weights: Sequence[Mapping[str, LayerWeights]],
    seen: Sequence[Mapping[str, Tensor]],
    others: Mapping[str, Tensor],
    how: Fusion,
) -> LayerWeights:
    """A layer that some LoRAs lack is fused as if theirs were 0: the others' must not act on their inputs."""
    shape = next(one[name] for one in weights if name in one)
    none = LayerWeights(torch.zeros(1, shape.down.shape[1]), torch.zeros(len(shape.up), 1), 1.0)
    layers = [one.get(name, none) for one in weights]
    covariances = [one[name] for one in seen]
    if how.kind == "closed":
        return fused(layers, covariances, others[name], how.mu)
    rank = sum(layer.rank for layer in layers)
    return extracted(fused_by_lbfgs(layers, covariances, others[name], how.mu), rank)


@torch.no_grad()
def _seen(
    parts: Attached, branch: Branch, prompts: Sequence[str], size: tuple[int, int], how: Fusion
) -> dict[str, Tensor]:
    """E[x x^T] of each layer's inputs over a sampling run of every prompt, without guidance; on the CPU, float32."""
    shape, seed = parts.model.latent_shape(*size), parts.settings.optimizer.seed
    with _collecting(parts) as sums:
        for number, prompt in enumerate(bar_over("inputs of the layers")(prompts)):
            draw_latents(
                parts, branch, [prompt], initial_noise(shape, seed + number)[None], how.steps, guidance_scale=1.0
            )
    return {name: (total / count).cpu() for name, (total, count) in sums.items()}


@contextmanager
def _collecting(parts: Attached) -> Iterator[dict[str, tuple[Tensor, int]]]:
    """Inside, the products of every layer's inputs are added up."""
    sums: dict[str, tuple[Tensor, int]] = {}

    def collector(name: str) -> Callable[[AdapterLinear, tuple[Tensor, ...]], None]:
        def collect(layer: AdapterLinear, args: tuple[Tensor, ...]) -> None:
            x = layer.inputs(args[0]).float().flatten(0, -2)
            total, count = sums.get(name, (0.0, 0))
            sums[name] = (total + x.T @ x, count + len(x))

        return collect

    handles = [layer.register_forward_pre_hook(collector(name)) for name, layer in parts.network.layers.items()]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()
