"""Words for UIs without our nodes: rows in front of both CLIPs that stand for the student's vectors (ours).

The vectors act inside the blocks, where only our nodes reach; a file with words is read by most UIs. So the finished
student with its vectors teaches words to itself without them. For prompts with [V], on the reference pictures and on
replayed ones, the words become those with the least

    || v_student(words) - v_student(vectors) ||^2

Nothing else learns, so prompts without the trigger give what they gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from library.dual_branch_scheduler import Branch
from library.flow import mse
from library.models import PromptBatch
from library.models.sd3.learned_words import LearnedWords
from library.objectives import COMPLETE, REPLAY_COMPLETE, STUDENT
from library.parts.learnable import freeze_all_but
from library.parts.parts import Opened
from library.parts.words import WordReader, made_words, save_words
from library.saving.outputs import WORDS_FILE
from library.terminal import say
from library.training.listeners import Listener
from library.training.scenes import SceneMaker

if TYPE_CHECKING:
    from library.training.run import Run

ROWS = 3
"""Rows that a word has at least: on the small model three did .42 of the fidelity where one did .28."""
LEARNING_RATE = 0.1
"""At the first step, falling to 0; as a share of how large a word's row is, so that it holds for any model."""
LOSS_SCALE = 1024.0
"""Half precision loses small gradients; AdamW does not mind how large they are."""
BATCHES_OF_MEASURE = 8
"""Batches, never learned from, on which the words are compared with the vectors."""

Pass = tuple[Tensor, Tensor, PromptBatch]
"""Noisy latents, their noise levels and the prompts of one pass."""


class WordFit:
    """Learns the words at the end of a run and saves them, if the student has vectors. One of the run's looks.

    Attributes:
        files: what was saved.
    """

    what = "the words for UIs without our nodes"

    def __init__(self) -> None:
        self.files: list[Path] = []

    def __call__(self, run: Run) -> None:
        """Learns, saves, draws the student with vectors and with words beside each other, says how alike they are."""
        if not run.settings.fits_words:
            return
        words, with_words, share = fit_words(run)
        self.files = save_words(run.parts, words, run.settings.saving.output_name)
        files = dict.fromkeys(self.files, WORDS_FILE)
        run.listeners.tell(Listener.saved, files, run.plan.stage_steps[STUDENT])
        for path in self.files:
            say(f"{path.name}: for UIs without our nodes; {_effect_of_words(share)}")
        columns = {"vectors": run.student.branch, "words": with_words}
        run.listeners.tell(Listener.words_learned, columns)


def _effect_of_words(share: float) -> str:
    if share > 0:
        return f"beside the LoRA it does {share:.0%} of what the vectors do"
    return "it does nothing yet of what the vectors do: more steps of the student or more word_train_steps may help"


def fit_words(run: Run) -> tuple[LearnedWords, Branch, float]:
    """Learns the words of a finished student.

    Returns:
        The words; the student with them and without vectors; and how much they do of what the vectors do, 1 all of it.
    """
    parts, steps = run.parts, run.settings.concept_embeddings.word_train_steps
    freeze_all_but([], run.student.held, parts.network)
    words, scenes = made_words(parts, rows_of(parts)), _scenes(run)
    taught_by = run.student.branch
    alone = replace(taught_by, embeddings={})
    with_words = replace(alone, reader=WordReader(parts, words))
    progress = run.progress("words")
    _learn(parts.velocity, words, taught_by, with_words, lambda step: _seen(scenes, step), steps, progress)
    share = _share(parts.velocity, taught_by, with_words, alone, lambda step: _seen(scenes, steps + step))
    return words, with_words, share


def rows_of(parts: Opened) -> int:
    """Rows of each word."""
    return max([ROWS, *(layout.clip for layout in parts.layouts.values())])


def _scenes(run: Run) -> SceneMaker:
    wanted = {COMPLETE} | ({REPLAY_COMPLETE} if run.replay else set())
    return SceneMaker("words", wanted, replace(run.ingredients.sources, in_context=None))


def _seen(scenes: SceneMaker, step: int) -> Iterator[Pass]:
    """What a step looks at, as far as there is a trigger in it."""
    for scene, name in ((scenes.reference(step), COMPLETE), (scenes.replay(step), REPLAY_COMPLETE)):
        if scene is not None and any(scene.prompts[name].tokens):
            yield scene.x_t, scene.sigma, scene.prompts[name]


def _learn(
    velocity: Callable[..., Tensor],
    words: LearnedWords,
    taught_by: Branch,
    with_words: Branch,
    seen: Callable[[int], Iterable[Pass]],
    steps: int,
    progress: Callable[[Iterable], Iterable] = iter,
) -> None:
    rows = list(words.parameters())
    starts = [row.detach().clone() for row in rows]
    sizes = [start.square().mean(1, keepdim=True).sqrt() for start in starts]
    moved = [torch.zeros_like(start) for start in starts]
    optimizer = torch.optim.AdamW(moved, LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for step in progress(range(steps)):
        for x_t, sigma, prompts in seen(step):
            with torch.no_grad():
                goal = velocity(taught_by, x_t, sigma, [prompts])
            (LOSS_SCALE * mse(velocity(with_words, x_t, sigma, [prompts]), goal).mean()).backward()
        for one, row, size in zip(moved, rows, sizes, strict=True):
            one.grad = None if row.grad is None else row.grad * size
            row.grad = None
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for row, start, one, size in zip(rows, starts, moved, sizes, strict=True):
                row.copy_(start + size * one)


@torch.no_grad()
def _share(
    velocity: Callable[..., Tensor],
    taught_by: Branch,
    with_words: Branch,
    alone: Branch,
    seen: Callable[[int], Iterable[Pass]],
) -> float:
    """How much of the vectors' change of the velocity the words make: 1 all of it, 0 none."""
    left = all_of_it = 0.0
    for step in range(BATCHES_OF_MEASURE):
        for given in seen(step):
            x_t, sigma, prompts = given
            goal, made, bare = (velocity(one, x_t, sigma, [prompts]) for one in (taught_by, with_words, alone))
            left, all_of_it = (
                left + float((made - goal).square().sum()),
                all_of_it + float((bare - goal).square().sum()),
            )
    return 1 - left / all_of_it if all_of_it else 1.0
