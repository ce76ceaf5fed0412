"""The pictures that are measured: every arm from the same noise, drawn only once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from library.chance import generator_for
from library.data.images import open_image
from library.drawing.drawn import draw_as_set
from library.dual_branch_scheduler import Branch
from library.evaluation.external import Key, file_name
from library.evaluation.prompts import EvaluationPrompt
from library.files.atomic import written
from library.files.fingerprint import of_key
from library.parts.parts import Attached
from library.report.sheet import as_image

SAMPLING = (
    "sample_steps",
    "guidance_scale",
    "sample_scheduler",
    "skip_layer_guidance_scale",
    "skip_layer_guidance_start",
    "skip_layer_guidance_stop",
    "skip_guidance_layers",
)
"""Settings that a picture depends on, besides the shift, which the scheduler's own configuration holds."""
OTHER_NOISE = 10_000
"""Added to every seed for the floor: the pretrained model beside itself from other noise."""


@dataclass(frozen=True)
class Wanted:
    """Pictures of one prompt in one arm.

    Attributes:
        key: what they depend on besides the prompt, the seeds and how is drawn.
        base: draw the base text, not the whole one.
        shift: added to the seeds of the noise, not to those of the names.
    """

    arm: str
    prompt: EvaluationPrompt
    seeds: tuple[int, ...]
    key: dict[str, Any]
    base: bool = False
    shift: int = 0

    @property
    def text(self) -> str:
        """What is drawn."""
        return self.prompt.base if self.base else self.prompt.text


class PictureFolder:
    """A folder of pictures, `ARM/PROMPT__SEED.png`, and the cache behind it that all runs share.

    All seeds of a prompt are one batch in every arm, so that arms that are the same are the same to the bit.
    """

    def __init__(self, parts: Attached, folder: Path, size: tuple[int, int]) -> None:
        self.parts = parts
        self.folder = folder
        self.size = size
        samples = parts.settings.samples
        self.how = {
            "model": parts.model.fingerprint(),
            "encoders": parts.model.text_fingerprint(),
            "vae": parts.model.image_fingerprint(),
            "dtype": str(parts.model.dtype),
            "size": list(size),
            "sampling": {name: value for name, value in asdict(samples).items() if name in SAMPLING},
            "scheduler": dict(parts.model.sampling_scheduler(samples.sample_shift).config),
        }

    def files(self, wanted: Wanted, branch: Callable[[], Branch]) -> dict[Key, Path]:
        """The pictures, drawn now if they are not there.

        Args:
            branch: called only where something is drawn.
        """
        cached = {seed: self._cached(wanted, seed) for seed in wanted.seeds}
        if not all(file.is_file() for file in cached.values()):
            for seed, image in zip(wanted.seeds, self._draw(wanted, branch()), strict=True):
                with written(cached[seed]) as temporary:
                    image.save(temporary, format="PNG")
        found = {}
        for seed, file in cached.items():
            target = self.folder / wanted.arm / file_name(wanted.prompt.id, seed)
            with written(target) as temporary:
                shutil.copyfile(file, temporary)
            found[wanted.prompt.id, seed] = target
        return found

    def _cached(self, wanted: Wanted, seed: int) -> Path:
        # The other seeds are part of the key: another batch may round otherwise.
        seeds = [one + wanted.shift for one in wanted.seeds]
        key = {**self.how, **wanted.key, "text": wanted.text, "noise": wanted.prompt.base, "seeds": seeds, "seed": seed}
        name = of_key(key)
        return self.parts.cache.folder / "pictures" / name[:2] / f"{name}.png"

    def _draw(self, wanted: Wanted, branch: Branch) -> list[Image.Image]:
        parts, shape = self.parts, self.parts.model.latent_shape(*self.size)
        noise = [
            torch.randn(shape, generator=generator_for(seed + wanted.shift, "evaluation", wanted.prompt.base))
            for seed in wanted.seeds
        ]
        latents = draw_as_set(parts, branch, [wanted.text] * len(noise), torch.stack(noise))
        return [as_image(pixels) for pixels in parts.model.decode(latents)]


def opened(files: Sequence[Path]) -> list[Image.Image]:
    """Pictures in memory."""
    return [open_image(file) for file in files]
