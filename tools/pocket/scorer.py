"""The judge: reads a picture's attributes and regions. It learns only from drawn pictures."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from library.files.atomic import write_tensors
from tools.pocket.creature import EARS, MARKINGS, TAILS
from tools.pocket.looks import enlarged
from tools.pocket.palette import COLOURS
from tools.pocket.pen import REGIONS
from tools.pocket.pictures import Pictures
from tools.pocket.stage import Stage, Workplace, train
from tools.pocket.styles import ALL_STYLES
from tools.pocket.world import ATTRIBUTES, Scene

OF_SCENE: dict[str, tuple[str, ...]] = {**ATTRIBUTES, "style": tuple(ALL_STYLES)}
OF_CREATURE: dict[str, tuple[str, ...]] = {
    "ears": EARS,
    "marking": MARKINGS,
    "marking_colour": tuple(COLOURS),
    "socks": tuple(COLOURS),
    "tail": TAILS,
}
HEADS = {**OF_SCENE, **OF_CREATURE}
"""What it reads, and the words for the possible answers."""
FOLDED_SIDE = 64
UNKNOWN = -100
"""The label of a creature's features if there is no creature."""
GRAIN = 0.06
"""Noise on the pictures in training, so that the judge does not depend on single pixels."""


def truth_of(scene: Scene) -> list[int]:
    """The right answers for a scene: an index for each of `HEADS`."""
    answers = [words.index(getattr(scene, name)) for name, words in OF_SCENE.items()]
    if scene.creature is None:
        return answers + [UNKNOWN] * len(OF_CREATURE)
    return answers + [words.index(getattr(scene.creature, name)) for name, words in OF_CREATURE.items()]


def _block(inside: int, outside: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1),
        nn.GroupNorm(8, outside),
        nn.SiLU(),
        nn.Conv2d(outside, outside, 3, 1, 1),
        nn.GroupNorm(8, outside),
        nn.SiLU(),
    )


@dataclass(frozen=True)
class Look:
    """What the judge sees in N pictures.

    Attributes:
        probabilities: of each answer to each question, (N, words) each.
        features: (N, 256).
        regions: index into `pen.REGIONS` of every pixel, (N, H, H).
    """

    probabilities: dict[str, Tensor]
    features: Tensor
    regions: Tensor

    def probability(self, question: str, answer: str) -> Tensor:
        """Of one answer, (N,)."""
        return self.probabilities[question][:, HEADS[question].index(answer)]

    def answers(self, question: str) -> list[str]:
        """The likeliest answer, a word for each picture."""
        return [HEADS[question][index] for index in self.probabilities[question].argmax(1).tolist()]


class Scorer(nn.Module):
    """A small convolutional network with one head for each attribute, and one for the region of every pixel.

    Args:
        side: of the pictures. They are enlarged to the next multiple of 64, which is folded to 64 x 64: neighbouring
            pixels become channels.
    """

    def __init__(self, side: int, width: int = 32) -> None:
        super().__init__()
        fold = math.ceil(side / FOLDED_SIDE)
        self.side = fold * FOLDED_SIDE
        self.fold, self.unfold = nn.PixelUnshuffle(fold), nn.PixelShuffle(fold)
        pixels = fold**2
        self.at_32 = _block(3 * pixels, width, 2)
        self.at_16 = _block(width, 2 * width, 2)
        self.at_8 = _block(2 * width, 3 * width, 2)
        self.at_4 = _block(3 * width, 4 * width, 2)
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(4 * width * 16, 256), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(words)) for name, words in HEADS.items()})
        self.up_16 = nn.Conv2d(5 * width, 2 * width, 3, 1, 1)
        self.up_32 = nn.Conv2d(3 * width, width, 3, 1, 1)
        self.up_64 = nn.Conv2d(width + 3 * pixels, 4 * len(REGIONS), 3, 1, 1)
        self.regions = nn.Conv2d(4 * len(REGIONS), len(REGIONS) * pixels, 3, 1, 1)

    def forward(self, picture: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Logits of each attribute, (B, words) each, and of the regions, (B, 4, H, H).

        Args:
            picture: (B, 3, H, H), in -1..1, of any size.
        """
        features, region_logits = self._see(picture)
        return {name: head(features) for name, head in self.heads.items()}, region_logits

    def _see(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        x64 = self.fold(enlarged(picture, self.side))
        x32 = self.at_32(x64)
        x16 = self.at_16(x32)
        x8 = self.at_8(x16)
        features = self.features(self.at_4(x8))
        y16 = F.silu(self.up_16(torch.cat([F.interpolate(x8, scale_factor=2), x16], 1)))
        y32 = F.silu(self.up_32(torch.cat([F.interpolate(y16, scale_factor=2), x32], 1)))
        y64 = F.silu(self.up_64(torch.cat([F.interpolate(y32, scale_factor=2), x64], 1)))
        regions = self.unfold(self.regions(y64))
        if picture.shape[-1] != self.side:
            regions = F.interpolate(regions, size=picture.shape[-2:], mode="bilinear", antialias=True)
        return features, regions

    @torch.no_grad()
    def look(self, pictures: Tensor, batch: int = 100) -> Look:
        """Everything it sees in pictures (N, 3, H, H)."""
        seen = [self._see(part) for part in pictures.split(batch)]
        features = torch.cat([part for part, _ in seen])
        regions = torch.cat([logits.argmax(1) for _, logits in seen])
        return Look({name: head(features).softmax(1) for name, head in self.heads.items()}, features, regions)

    @torch.no_grad()
    def read(self, pictures: Tensor, batch: int = 100) -> tuple[dict[str, Tensor], Tensor]:
        """The likeliest answer to each question, (N,) each, and the region of each pixel, (N, H, H)."""
        answers, regions = {name: [] for name in HEADS}, []
        for part in pictures.split(batch):
            logits, region_logits = self(part)
            for name, values in logits.items():
                answers[name].append(values.argmax(1))
            regions.append(region_logits.argmax(1))
        return {name: torch.cat(parts) for name, parts in answers.items()}, torch.cat(regions)


def train_scorer(scorer: Scorer, stage: Stage, pictures: Pictures, place: Workplace) -> None:
    """Trains on drawn pictures, including the unseen style, which it must recognise once a model has learnt it."""
    truths = torch.tensor([truth_of(pictures.scene(index)) for index in range(len(pictures.pixels))])
    scorer.train()

    def loss_of(step: int, chance: torch.Generator) -> Tensor:
        rows = torch.randint(len(truths), (stage.batch,), generator=chance).sort().values
        picture, regions = pictures.batch(rows, place.device)
        grain = GRAIN * torch.randn(picture.shape, generator=chance).to(place.device)
        logits, region_logits = scorer(picture + grain)
        answers = truths[rows].to(place.device)
        loss = F.cross_entropy(region_logits, regions)
        for column, values in zip(answers.unbind(1), logits.values(), strict=True):
            known = (column != UNKNOWN).sum().clamp_min(1)
            loss = loss + F.cross_entropy(values, column, ignore_index=UNKNOWN, reduction="sum") / known
        return loss

    train(stage, place, scorer, loss_of)
    scorer.eval()


def accuracy(scorer: Scorer, scenes: list[Scene], pictures: Tensor) -> dict[str, float]:
    """Share of right answers to each question, over the scenes that it applies to.

    Args:
        pictures: (N, 3, H, H), in -1..1, of those scenes.
    """
    answers, _ = scorer.read(pictures)
    truths = torch.tensor([truth_of(scene) for scene in scenes]).to(pictures.device)
    result = {}
    for column, (name, given) in zip(truths.unbind(1), answers.items(), strict=True):
        known = column != UNKNOWN
        result[name] = (given == column)[known].float().mean().item() if known.any() else float("nan")
    return result


def save_scorer(scorer: Scorer, file: Path, held_out: dict[str, float]) -> None:
    """Writes the judge, with its accuracy on unseen drawn pictures."""
    tensors = {name: tensor.half() for name, tensor in scorer.state_dict().items()}
    write_tensors(file, tensors, {"held_out_accuracy": json.dumps(held_out)})


def load_scorer(file: Path) -> Scorer:
    """The saved judge, in float32."""
    tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
    channels = tensors["at_32.0.weight"].shape[1]
    scorer = Scorer(FOLDED_SIDE * math.isqrt(channels // 3))
    scorer.load_state_dict(tensors)
    return scorer.eval()
