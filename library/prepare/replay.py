"""Replay: pictures that the pretrained model draws once, which the student must not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from library.config.dataset import Concept
from library.config.settings import Settings
from library.drawing.drawn import draw_latents
from library.drawing.sample_prompts import read_prompt_lines
from library.drawing.sampling import initial_noise
from library.dual_branch_scheduler import PRETRAINED_BRANCH
from library.models.interface import Progress
from library.parts.parts import Attached, Opened
from library.prepare.regions import class_region
from library.prompts import PromptTriple, derive, triggers_in

DEFAULT_PROMPTS = Path(__file__).with_name("replay_prompts.txt")
CLASS = "{class}"
PIXELS_AT_ONCE = 128 * 128
"""Latent pixels drawn in one batch: one picture of 1024 x 1024 pixels, or as many small ones as make that."""
MOST_AT_ONCE = 16
"""Pictures drawn in one batch, however small."""


@dataclass(frozen=True)
class Replay:
    """Pictures that the pretrained model drew.

    Attributes:
        latents: (N, C, h, w).
        triples: the texts of each; `base` is what it was drawn from.
        concepts: the concept that the other texts of each are about.
        regions: 1 where the class is and 0 elsewhere, (N, 1, h, w); None: nobody asks.
    """

    latents: Tensor
    triples: Sequence[PromptTriple]
    concepts: Sequence[str]
    regions: Tensor | None = None


def replay_texts(parts: Opened) -> list[tuple[Concept, PromptTriple]]:
    """The texts of each replayed picture and the concept they are about: the lists' lines over and over.

    Lines with a concept's class word and lines without take turns, so that half of the pictures show the class.
    Base is the prompt it is drawn from, complete the same with [V] in it. Where a prompt has no place for [V], complete
    is the prompt itself and target the class alone: with no concept there is no guidance.
    """
    lines, texts = replay_lines(parts.settings), []
    for index in range(parts.settings.pure_learning.replay_images):
        pair, turn = divmod(index, 2)
        lap, number = divmod(pair, len(parts.concepts))
        concept = parts.concepts[number]
        of_class = [line for line in lines if CLASS in line or triggers_in(line, concept.class_word)]
        others = [line for line in lines if line not in of_class]
        some = (of_class, others)[turn]
        line = some[lap % len(some)] if of_class and others else lines[index % len(lines)]
        texts.append((concept, replayed_triple(line, concept)))
    return texts


def replay_lines(settings: Settings) -> list[str]:
    """The lines for replayed pictures, of the settings' file or the default's; some have `CLASS` in them."""
    return read_prompt_lines(settings.pure_learning.replay_prompts or str(DEFAULT_PROMPTS), "replay_prompts")


def replayed_triple(line: str, concept: Concept) -> PromptTriple:
    """The texts of a line for replayed pictures; complete is base where it has no place for [V]."""
    prompt = line.replace(CLASS, concept.class_word)
    class_only = derive(concept.target, concept, "target").class_only
    if not prompt or (concept.kind == "subject" and not triggers_in(prompt, concept.class_word)):
        return PromptTriple(prompt, prompt, class_only, class_only)
    return replace(derive(prompt, concept, "replay_prompts"), base=prompt)


def pictures_at_once(shape: Sequence[int]) -> int:
    """How many pictures with latents (C, h, w) are drawn in one batch."""
    return max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // (shape[1] * shape[2])))


def draw_replay(parts: Attached, size: tuple[int, int], progress: Progress = iter) -> Replay:
    """The replayed pictures, from the cache or drawn now; `parts` has the transformer.

    Args:
        size: width and height in pixels.
        progress: wraps the loop over what has to be drawn.
    """
    texts, shape = replay_texts(parts), parts.model.latent_shape(*size)
    prompts = [triple.base for _, triple in texts]
    at_once = pictures_at_once(shape)
    batches = [range(begin, min(begin + at_once, len(prompts))) for begin in range(0, len(prompts), at_once)]
    drawn = [_draw(parts, [prompts[index] for index in batch], list(batch), shape) for batch in progress(batches)]
    replay = Replay(torch.cat(drawn), [triple for _, triple in texts], [concept.name for concept, _ in texts])
    if parts.settings.pure_learning.surroundings_weight:
        replay = replace(replay, regions=_regions(parts, replay))
    return replay


def _regions(parts: Attached, replay: Replay) -> Tensor:
    """Where the class is in each picture, (N, 1, h, w); everywhere, if its prompt has no subject."""
    of = {concept.name: concept for concept in parts.concepts}
    found = []
    for latents, triple, name in zip(replay.latents, replay.triples, replay.concepts, strict=True):
        with_subject = of[name].kind == "subject" and triple.complete != triple.base
        found.append(class_region(parts, of[name], latents) if with_subject else torch.ones(1, *latents.shape[1:]))
    return torch.stack(found)


def _draw(parts: Attached, prompts: list[str], numbers: list[int], shape: tuple[int, int, int]) -> Tensor:
    """Latents of some of the pictures, each found in the cache by its own prompt and seed."""
    settings = parts.settings
    keys: list[dict[str, Any]] = [
        {
            "prompt": prompt,
            "seed": settings.optimizer.seed + number,
            "shape": list(shape),
            "steps": settings.pure_learning.replay_sample_steps,
            "guidance_scale": settings.samples.guidance_scale,
            "transformer": parts.model.fingerprint(),
            "text": parts.model.text_fingerprint(),
        }
        for prompt, number in zip(prompts, numbers, strict=True)
    ]
    found = [tensors for key in keys if (tensors := parts.cache.find("replay", key))]
    if len(found) < len(keys):
        noise = torch.stack([initial_noise(shape, settings.optimizer.seed + number) for number in numbers])
        steps, guidance = settings.pure_learning.replay_sample_steps, settings.samples.guidance_scale
        latents = draw_latents(parts, PRETRAINED_BRANCH, prompts, noise, steps, guidance)
        found = [{"latents": one} for one in latents]
        for key, tensors in zip(keys, found, strict=True):
            parts.cache.put("replay", key, tensors)
    return torch.stack([tensors["latents"] for tensors in found])
