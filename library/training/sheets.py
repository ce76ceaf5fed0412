"""Contact sheets of a run: the same seeds from the pretrained model and from what was learned, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.models import PromptBatch
from library.report.sheet import SheetRow, as_image, save_sheet
from library.sample_prompts import SamplePrompt
from library.sampling import SkipLayerGuidance, initial_noise, sample
from library.training.parts import Parts


class SheetMaker:
    """Draws sheets; the pretrained model's pictures are drawn once.

    Args:
        parts: attached.
        size: width and height of pictures whose prompt names no other.
    """

    def __init__(self, parts: Parts, prompts: Sequence[SamplePrompt], size: tuple[int, int]) -> None:
        self.parts, self.prompts, self.size = parts, prompts, size
        self._pretrained: dict[SamplePrompt, Tensor] = {}

    def make(
        self,
        path: Path,
        title: str,
        columns: dict[str, Branch],
        progress: Callable[[Iterable], Iterable] = iter,
    ) -> list[SheetRow]:
        """Writes a sheet: a row for each prompt; for each seed the pretrained model and each of `columns`.

        The pretrained model is shown the prompt without the concept: the picture as it was before. Returns the rows.
        """
        seeds = self.parts.settings.samples.sample_seeds
        rows = []
        for prompt in progress(self.prompts):
            if prompt not in self._pretrained:
                self._pretrained[prompt] = self._draw(prompt, prompt.base, PRETRAINED_BRANCH)
            sets = [self._pretrained[prompt], *(self._draw(prompt, prompt.text, branch) for branch in columns.values())]
            rows.append(
                SheetRow(prompt.kind, prompt.text, [latents[seed] for seed in range(seeds) for latents in sets])
            )
        decoded = [
            SheetRow(row.kind, row.prompt, list(self.parts.model.decode(torch.stack(row.pictures)))) for row in rows
        ]
        self.parts.model.release_vae()
        names = ["pretrained", *columns]
        save_sheet(path, title, [f"{name}, seed {seed + 1}" for seed in range(seeds) for name in names], decoded)
        return decoded

    def _draw(self, prompt: SamplePrompt, text: str, branch: Branch) -> Tensor:
        samples, model = self.parts.settings.samples, self.parts.model
        seeds = samples.sample_seeds
        first = self.parts.settings.optimizer.seed if prompt.seed is None else prompt.seed
        shape = model.latent_shape(prompt.width or self.size[0], prompt.height or self.size[1])
        none = [None] * seeds
        return sample(
            lambda *given: self.parts.velocity(branch, *given),
            model.sampling_scheduler(samples.sample_shift if prompt.shift is None else prompt.shift),
            torch.stack([initial_noise(shape, first + seed) for seed in range(seeds)]),
            PromptBatch.of([self.parts.texts[text]] * seeds, none),
            PromptBatch.of([self.parts.texts[prompt.negative]] * seeds, none),
            prompt.steps or samples.sample_steps,
            prompt.guidance_scale or samples.guidance_scale,
            samples.sample_scheduler,
            SkipLayerGuidance(
                samples.skip_guidance_layers,
                samples.skip_layer_guidance_scale,
                samples.skip_layer_guidance_start,
                samples.skip_layer_guidance_stop,
            ),
        )


def preview_of(rows: Sequence[SheetRow]) -> Image.Image:
    """The picture that stands for what was learned: the first one of a prompt with the concept."""
    row = next((row for row in rows if row.kind == "concept"), rows[0])
    return as_image(row.pictures[1])
