"""Contact sheets of a run: the same seeds from the pretrained model and from what was learned, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from library.drawing.drawn import draw_as_set
from library.drawing.sample_prompts import SamplePrompt, read_samples
from library.drawing.sampling import initial_noise
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.errors import PureCCError
from library.models.interface import Progress
from library.parts.parts import STUDENT_ADAPTER, Attached
from library.report.progress import bar_over
from library.report.sheet import SheetRow, as_image, save_sheet
from library.terminal import say

SHOWN_AT_STRENGTHS = {"concept": 2, "class": 1}
"""Prompts of each kind on the sheet of strengths, at most."""


class SheetMaker:
    """Draws sheets. The pretrained model's pictures are drawn only once and stay in the cache.

    Args:
        parts: attached.
        size: width and height of pictures whose prompt names no other.
    """

    def __init__(self, parts: Attached, prompts: Sequence[SamplePrompt], size: tuple[int, int]) -> None:
        self.parts = parts
        self.prompts = prompts
        self.size = size
        self._refused: str | None = None

    def follow(self, path: str) -> None:
        """Takes over the prompts of a file if they have changed. New ones are encoded on the CPU, while the model
        stays. If that fails, the run reports it and keeps the old ones.
        """
        try:
            prompts = read_samples(path, self.parts.concepts, self.parts.model.latent_shape)
            if prompts == list(self.prompts):
                return
            texts = [text for prompt in prompts for text in (prompt.text, prompt.base, prompt.negative)]
            self.parts.texts.prepare(texts, bar_over("text"))
        except Exception as error:  # a sheet must never end a run
            why = str(error) if isinstance(error, PureCCError) else f"{path}: {type(error).__name__}: {error}"
            if why != self._refused:
                say(f"WARNING: {why}\n  The run continues with the earlier prompts.")
            self._refused = why
            return
        self.prompts = prompts
        self._refused = None
        say(f"{path} has changed: {len(prompts)} prompts from now on.")

    def make(
        self,
        path: Path,
        title: str,
        columns: dict[str, Branch],
        progress: Progress = iter,
    ) -> list[SheetRow]:
        """Writes a sheet: a row for each prompt; for each seed the pretrained model and each of `columns`.

        The pretrained model is shown the prompt without the concept: the picture as it was before. Returns the rows.
        """
        seeds = self.parts.settings.samples.sample_seeds
        rows = []
        for prompt in progress(self.prompts):
            before = self._pretrained(prompt)
            sets = [before, *(self._draw(prompt, prompt.text, branch) for branch in columns.values())]
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

    def strengths(
        self, path: Path, title: str, branch: Branch, strengths: Sequence[float], whole: Sequence[SheetRow]
    ) -> list[SheetRow]:
        """Writes the sheet of strengths: a few prompts, each at every strength of the student's LoRA, first seed alone.

        Concept embeddings always act whole.

        Args:
            whole: the rows of the finished student's own sheet, which has it at strength 1 already.
        """
        drawn = list(zip(self.prompts, whole, strict=False))  # none, where that sheet could not be drawn
        kinds = {kind: [pair for pair in drawn if pair[1].kind == kind] for kind in SHOWN_AT_STRENGTHS}
        some = [pair for kind, most in SHOWN_AT_STRENGTHS.items() for pair in kinds[kind][:most]]
        rows, network = [], self.parts.network
        for prompt, row in some:
            before, student, *_ = row.pictures
            shown = {1.0: student}
            try:
                for strength in strengths:
                    if strength not in shown:
                        network.set_strength(STUDENT_ADAPTER, strength)
                        shown[strength] = self.parts.model.decode(self._draw(prompt, prompt.text, branch, seeds=1))[0]
            finally:
                network.set_strength(STUDENT_ADAPTER, 1.0)
            rows.append(SheetRow(row.kind, row.prompt, [before, *(shown[strength] for strength in strengths)]))
        self.parts.model.release_vae()
        if rows:
            save_sheet(path, title, ["pretrained", *(f"LoRA at {strength:g}" for strength in strengths)], rows)
        return rows

    def _pretrained(self, prompt: SamplePrompt) -> Tensor:
        """The pretrained model's pictures of a prompt, from the cache or drawn now."""
        model, settings = self.parts.model, self.parts.settings
        key = {
            "prompt": {**asdict(prompt), "text": prompt.base, "kind": ""},
            "size": list(self.size),
            "seed": settings.optimizer.seed,
            "samples": asdict(settings.samples),
            "scheduler": dict(model.sampling_scheduler().config),
            "transformer": model.fingerprint(),
            "text": model.text_fingerprint(),
        }

        def draw() -> dict[str, Tensor]:
            return {"latents": self._draw(prompt, prompt.base, PRETRAINED_BRANCH)}

        return self.parts.cache.get("sheets", key, draw)["latents"]

    def _draw(self, prompt: SamplePrompt, text: str, branch: Branch, seeds: int | None = None) -> Tensor:
        model, seeds = self.parts.model, seeds or self.parts.settings.samples.sample_seeds
        first = self.parts.settings.optimizer.seed if prompt.seed is None else prompt.seed
        shape = model.latent_shape(prompt.width or self.size[0], prompt.height or self.size[1])
        return draw_as_set(
            self.parts,
            branch,
            [text] * seeds,
            torch.stack([initial_noise(shape, first + seed) for seed in range(seeds)]),
            negative=prompt.negative,
            shift=prompt.shift,
            steps=prompt.steps,
            guidance_scale=prompt.guidance_scale,
        )


def preview_of(rows: Sequence[SheetRow]) -> Image.Image:
    """The picture that represents the LoRA: the first one of a prompt with the concept."""
    row = next((row for row in rows if row.kind == "concept"), rows[0])
    return as_image(row.pictures[1])
