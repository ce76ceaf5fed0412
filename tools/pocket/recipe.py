"""The whole recipe, stage by stage: pictures, autoencoder, judge, latents, flow model, decoder, diffusers folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from tools.pocket.autoencoder import (
    encode_all,
    measure_of_pixels,
    new_autoencoder,
    polish_decoder,
    train_autoencoder,
)
from tools.pocket.flow import Normalised, TextToFlow, new_flow, train_flow
from tools.pocket.pen import OBJECT
from tools.pocket.pictures import Pictures, draw_pictures, scene_at
from tools.pocket.scorer import Scorer, accuracy, load_scorer, save_scorer, train_scorer
from tools.pocket.stage import Stage, Workplace, progress_of
from tools.pocket.start import begin_with, begin_with_judge, published_parts
from tools.pocket.triggers import make_triggers_heard
from tools.pocket.world import Scene, draw

STAGES = ("autoencoder", "scorer", "flow", "decoder")
JUDGE = "judge.safetensors"
UNSEEN_SEED = 1
"""Added to the seed for pictures that no stage trains on."""
UNSEEN_PICTURES = 1024


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The amounts for a training.

    Attributes:
        side: of the pictures, in pixels.
        shift: of the noise levels. SD 3.5 shifts them by 3 for 128 x 128 latents; 12 x 12 need half of it.
        depth: blocks of the transformer, and its width in heads of 64.
        pictures: how many are drawn for training; a sixteenth more is in the unseen style.
    """

    side: int
    shift: float
    depth: int
    pictures: int
    autoencoder: Stage
    scorer: Stage
    flow: Stage
    decoder: Stage

    def as_it_stands(self) -> Recipe:
        """The same recipe without further steps: it yields the stages' current state."""
        return replace(self, **{name: replace(getattr(self, name), steps=0) for name in STAGES})


RECIPES = {
    "cpu": Recipe(
        side=96,
        shift=1.5,
        depth=3,
        pictures=24_576,
        autoencoder=Stage(name="autoencoder", steps=20_000, batch=4, rate=6e-4, minutes=30, average=0.998),
        scorer=Stage(name="scorer", steps=6000, batch=32, rate=1e-3, minutes=20),
        flow=Stage(name="flow", steps=100_000, batch=32, rate=1e-3, minutes=240, average=0.9995),
        decoder=Stage(name="decoder", steps=20_000, batch=4, rate=6e-4, minutes=30, average=0.998),
    ),
    "gpu": Recipe(
        side=96,
        shift=1.5,
        depth=3,
        pictures=49_152,
        autoencoder=Stage(name="autoencoder", steps=12_000, batch=128, rate=1e-3, minutes=2.5, average=0.998),
        scorer=Stage(name="scorer", steps=3000, batch=256, rate=1e-3, minutes=0.7),
        flow=Stage(name="flow", steps=24_000, batch=512, rate=1e-3, minutes=6, average=0.9995),
        decoder=Stage(name="decoder", steps=6000, batch=128, rate=6e-4, minutes=1, average=0.998),
    ),
}
"""For two CPU cores and an evening; for a GPU and a quarter of an hour."""


class Kitchen:
    """Follows a recipe in a folder. Each stage uses the results of the one before.

    Args:
        start: a published model. Stages without a state start with its weights, if the shapes match.
    """

    def __init__(self, recipe: Recipe, place: Workplace, start: Path | None = None) -> None:
        self.recipe, self.place, self.start = recipe, place, start
        place.folder.mkdir(parents=True, exist_ok=True)

    def pictures(self) -> Pictures:
        """The training pictures, drawn on the first call."""
        return draw_pictures(self.place.folder, self.recipe.pictures, self.place.seed, self.recipe.side)

    def autoencoder(self) -> AutoencoderKL:
        """The autoencoder after its first training, trained if needed."""
        torch.manual_seed(self.place.seed)
        vae = new_autoencoder(self.recipe.side)
        if self.start:
            begin_with(vae, AutoencoderKL.from_pretrained(self.start / "vae"))
        vae = vae.to(self.place.device)
        train_autoencoder(vae, self.recipe.autoencoder, self.pictures(), self.place)
        return vae

    def latents(self, vae: AutoencoderKL) -> Normalised:
        """All training pictures, encoded, with those in the unseen style at the end."""
        step = progress_of(self.place.folder, "autoencoder").step
        latents = encode_all(vae, self.place.folder / f"latents-{step}.safetensors", self.pictures(), self.place.device)
        return Normalised(latents, vae.config.shift_factor, vae.config.scaling_factor)

    def scorer(self) -> Scorer:
        """The judge, saved with its accuracy on unseen pictures."""
        torch.manual_seed(self.place.seed)
        scorer = Scorer(self.recipe.side)
        if self.start:
            begin_with_judge(scorer, load_scorer(self.start.parent / JUDGE))
        scorer = scorer.to(self.place.device)
        train_scorer(scorer, self.recipe.scorer, self.pictures(), self.place)
        scenes, pictures, regions = unseen_pictures(self.place.seed, self.recipe.side)
        held_out = accuracy(scorer, scenes, pictures.to(self.place.device))
        found = scorer.read(pictures.to(self.place.device))[1].cpu() == OBJECT
        truth = regions == OBJECT
        held_out["object_iou"] = ((found & truth).sum() / (found | truth).sum()).item()
        save_scorer(scorer, self.place.folder / JUDGE, held_out)
        return scorer

    def flow(self) -> TextToFlow:
        """Transformer and text encoders."""
        vae = self.autoencoder()
        latents = self.latents(vae)
        measure = measure_of_pixels(vae, latents.latents)
        model = new_flow(self.recipe.depth, self.recipe.side, self.place.seed)
        if self.start:
            for name, trained in published_parts(self.start).items():
                begin_with(getattr(model, name), trained)
                if name != "transformer":  # they already know every word; a step without them takes a third less time
                    getattr(model, name).requires_grad_(False)
        model = model.to(self.place.device)
        train_flow(model, self.recipe.flow, self.pictures(), latents, self.recipe.shift, measure, self.place)
        moved = make_triggers_heard(model, self.place.seed)
        self.place.say("triggers move the velocity by " + ", ".join(f"{word} {far:.2f}" for word, far in moved.items()))
        return model

    def decoder(self) -> AutoencoderKL:
        """The autoencoder with its decoder trained to the end. It only needs the latents."""
        vae = self.autoencoder()
        latents = self.latents(vae).latents
        polish_decoder(vae, self.recipe.decoder, self.pictures(), latents, self.place)
        return vae


def unseen_pictures(
    seed: int, side: int, count: int = UNSEEN_PICTURES
) -> tuple[list[Scene], torch.Tensor, torch.Tensor]:
    """Scenes that no stage trained on, their pictures (N, 3, side, side) in -1..1, and regions (N, side, side)."""
    scenes = [scene_at(seed + UNSEEN_SEED, index, unseen_style=index % 8 == 0) for index in range(count)]
    drawings = [draw(scene, side) for scene in scenes]
    pictures = torch.stack([torch.tensor(drawing.picture) for drawing in drawings])
    regions = torch.stack([torch.tensor(drawing.regions) for drawing in drawings])
    return scenes, pictures.permute(0, 3, 1, 2).float() / 127.5 - 1, regions
