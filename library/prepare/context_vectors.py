"""Context vectors: what a subject's pictures share besides the subject, learned before it (ours).

Five photos on one rug at night teach a rug at night as well: no caption names all that they share, so it ends up in
[V]. These vectors name it. They take the place of padding at the end of the text stream, are learned with the
pretrained model alone and outside of the class's region, and are in the complete and the base prompts of the
reference pictures in both stages. What they explain is no longer left for [V], for it is in both members of
R_s = v(complete) - v(base). Afterwards they are gone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from library.chance import generator_for
from library.config.dataset import Concept
from library.data.latents import Latents
from library.data.pictures import Picture
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.errors import TrainingError
from library.flow import LEVELS_OVER_ALL, interpolate, mse, velocity_target
from library.hierarchical_embedding_injector import ConceptEmbeddings
from library.models.interface import Progress, PromptBatch
from library.parts.context import Context, name_of, places
from library.parts.parts import Attached
from library.prepare.regions import class_region

LEAST_SIGMA = 0.4
"""What pictures share is decided at strong noise; below this, a noisy picture shows it without help."""
PICTURES_A_STEP = 1
REGIONS_HELD = 256
"""Pictures whose class's region stays in memory."""
LOSS_SCALE = 1024.0
"""Half precision loses small gradients; AdamW does not mind how large they are."""


def learn_context(
    parts: Attached,
    latents: Latents,
    pictures: Sequence[Picture],
    at_once: int,
    progress: Progress = iter,
) -> Context:
    """The context vectors of every subject, from the cache or learned now; `parts` has the transformer.

    Args:
        latents: of the pictures, prepared.
        pictures: of all concepts; those of styles and regularisation pictures are ignored.
        at_once: pictures in one pass, the batch size that the stages are planned for.
        progress: wraps the loop over steps.

    Raises:
        TrainingError: out of memory; nothing has been trained yet.
    """
    if not parts.settings.context.context_vectors:
        return Context()
    found, seconds = {}, 0.0
    for concept in parts.concepts:
        own = [one for one in pictures if one.concept.name == concept.name and not one.subset.is_reg]
        if concept.kind == "subject" and own:
            key = _key(parts, latents, concept, own)
            learn = partial(learn_vectors, parts, latents, concept, own, at_once, progress)
            try:
                learned = parts.cache.get("context", key, learn)
            except torch.OutOfMemoryError as error:
                raise TrainingError(
                    "context: out of GPU memory.",
                    'Set gradient_checkpointing = true and checkpointed_blocks = "all", swap blocks (blocks_to_swap), '
                    "or turn it off with context_vectors = 0.",
                ) from error
            vectors = ConceptEmbeddings(learned["vectors"].to(parts.model.device), len(parts.model.blocks))
            found[concept.name] = vectors.requires_grad_(False)
            seconds += float(learned.get("seconds", 0.0))  # caches of before lack it
    return Context(found, seconds)


def _key(parts: Attached, latents: Latents, concept: Concept, pictures: Sequence[Picture]) -> dict[str, Any]:
    settings = parts.settings
    return {
        "pictures": [[latents.place(one), [triple.base for triple in one.prompts]] for one in pictures],
        "concept": concept.name,
        "settings": vars(settings.context),
        "seed": settings.optimizer.seed,
        "dtype": str(parts.model.dtype),
        "text": parts.model.text_fingerprint(),
        "transformer": parts.model.fingerprint(),
    }


def learn_vectors(
    parts: Attached,
    latents: Latents,
    concept: Concept,
    pictures: Sequence[Picture],
    at_once: int,
    progress: Progress,
) -> dict[str, Tensor]:
    """Learns a concept's context: flow matching on base prompts, where the class is not.

    Args:
        at_once: pictures in one pass. A step of either stage holds more than one prediction of as many.
    """
    began, settings, seed = time.perf_counter(), parts.settings.context, parts.settings.optimizer.seed
    start = _padding_states(parts, pictures[0].prompts[0].base, latents.mean(pictures[0]))
    vectors = ConceptEmbeddings(start.to(parts.model.device), len(parts.model.blocks))
    optimizer = torch.optim.AdamW([vectors.moved], settings.context_lr, weight_decay=0.0)
    branch = Branch({}, {name_of(concept.name): vectors})

    @lru_cache(REGIONS_HELD)
    def outside(index: int) -> Tensor:
        return 1 - class_region(parts, concept, latents.mean(pictures[index]))

    for step in progress(range(settings.context_train_steps)):
        generator = generator_for(seed, "context", concept.name, step)
        shown = _shown(pictures, generator)
        image = torch.stack([latents.mean(pictures[index]) for index in shown])
        noise = torch.randn(image.shape, generator=generator)
        sigma = LEAST_SIGMA + (1 - LEAST_SIGMA) * torch.rand(len(shown), generator=generator)
        captions = [pictures[index].prompts for index in shown]
        texts = [variants[step % len(variants)].base for variants in captions]
        prompts = PromptBatch.of([parts.texts[text] for text in texts], [concept.name] * len(shown))
        prompts = replace(prompts, tokens=tuple(places(parts, concept.name, text) for text in texts))
        target, counted = velocity_target(image, noise), torch.stack([outside(index) for index in shown])
        x_t, gradient = interpolate(image, noise, sigma), torch.zeros_like(vectors.moved)
        for rows in _parts_of(len(shown), at_once):
            some = prompts.part(rows)
            if not any(some.tokens):  # captions so long that no padding is left to learn in
                continue
            velocity = parts.velocity(branch, x_t[rows], sigma[rows], [some])
            loss = mse(velocity, target[rows].to(velocity.device), counted[rows].to(velocity.device)).sum() / len(shown)
            gradient += torch.autograd.grad(LOSS_SCALE * loss, [vectors.moved])[0]
        vectors.moved.grad = gradient
        optimizer.step()
    learned = vectors.vectors().detach().cpu()
    return {"vectors": learned, "seconds": torch.tensor(time.perf_counter() - began)}


def _parts_of(rows: int, at_once: int) -> list[slice]:
    return [slice(begin, begin + at_once) for begin in range(0, rows, at_once)]


def _shown(pictures: Sequence[Picture], generator: torch.Generator) -> list[int]:
    """The pictures of a step, all of one size, by their places."""
    order = torch.randperm(len(pictures), generator=generator).tolist()
    return [index for index in order if pictures[index].size == pictures[order[0]].size][:PICTURES_A_STEP]


@torch.no_grad()
def _padding_states(parts: Attached, text: str, latents: Tensor) -> Tensor:
    """The padding's own states at the input of each block, (L, vectors, width): with these, nothing has changed."""
    prompts = PromptBatch.of([parts.texts[text]], [None])
    count, model = parts.settings.context.context_vectors, parts.model
    positions = [stream.end - 1 - index for stream in model.streams for index in range(count)]
    total = torch.zeros(())
    for level in LEVELS_OVER_ALL:
        generator = generator_for(parts.settings.optimizer.seed, "padding", str(level))
        noise = torch.randn(latents.shape, generator=generator)
        sigma = torch.full((1,), level)
        with parts.injector.watching() as seen:
            parts.velocity(PRETRAINED_BRANCH, interpolate(latents[None], noise[None], sigma), sigma, [prompts])
        total = total + torch.stack([states[0, positions].float() for states in seen])
    return total / len(LEVELS_OVER_ALL)
