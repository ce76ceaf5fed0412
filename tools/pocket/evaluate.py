"""How well a published model follows captions, by the judge, and sheets of its pictures for people."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from PIL import Image, ImageDraw, ImageFont
from safetensors import safe_open
from torch import Tensor

from library.files.atomic import write_text, written
from library.report.sheet import as_image
from tools.pocket.captions import full_caption
from tools.pocket.looks import enlarged, frechet, reconstructed, signal_to_noise, steepness
from tools.pocket.scorer import OF_SCENE, Scorer, truth_of
from tools.pocket.tokenizers import LENGTH
from tools.pocket.world import OBJECTS, Scene, draw, random_scene

ASKED = 500
STEPS = 20
GUIDANCE = 4.0
BATCH = 50
TARGETS = {
    "object": 0.90,
    "colour": 0.95,
    "background": 0.98,
    "time": 0.98,
    "place": 0.95,
    "style": 0.95,
}
GAP = 4
LEAST_SIDE = 128
"""Smaller pictures are enlarged on a sheet, a whole number of times."""


@dataclass(frozen=True)
class Result:
    """The judge's results.

    Attributes:
        accuracy: share of pictures that show what their caption says, by attribute.
        all_right: share of pictures that show all of it.
        by_object: share of each object's pictures in which the judge recognises it.
        judge: the judge's own accuracy on unseen drawn pictures.
        looks: see `compare`.
    """

    captions: int
    steps: int
    guidance: float
    accuracy: dict[str, float]
    all_right: float
    by_object: dict[str, float]
    judge: dict[str, float]
    looks: dict[str, float]


def unseen_scenes(count: int, seed: int) -> list[Scene]:
    """Scenes whose full captions were held out from training, with every object about equally often."""
    rng, scenes = random.Random(f"asked {seed}"), []
    while len(scenes) < count:
        scene = random_scene(rng, held_out=True)
        if scene.object == OBJECTS[len(scenes) % len(OBJECTS)]:
            scenes.append(scene)
    return scenes


@torch.no_grad()
def generate(pipeline: StableDiffusion3Pipeline, captions: list[str], seed: int, guidance: float = GUIDANCE) -> Tensor:
    """A picture of each caption, (N, 3, side, side), float32 in -1..1, on the CPU."""
    parts = []
    for start in range(0, len(captions), BATCH):
        some = captions[start : start + BATCH]
        noise = [torch.Generator().manual_seed(seed + start + k) for k in range(len(some))]
        pixels = pipeline(
            some,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            max_sequence_length=LENGTH,
            generator=noise,
            output_type="pt",
        ).images
        parts.append(pixels.float().cpu() * 2 - 1)
    return torch.cat(parts)


def load_pipeline(folder: Path, device: str) -> StableDiffusion3Pipeline:
    """The published model, in float32."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(scenes: list[Scene], side: int) -> Tensor:
    """The correct pictures of scenes, (N, 3, side, side), float32 in -1..1."""
    pictures = torch.stack([torch.tensor(draw(scene, side).picture) for scene in scenes])
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def compare(vae: AutoencoderKL, scorer: Scorer, scenes: list[Scene], pictures: Tensor) -> dict[str, float]:
    """Compares pictures with drawings of the same scenes, all at the size that the judge reads.

    Args:
        pictures: (N, 3, any, any), in -1..1.

    Returns:
        `edges`: how steep their edges are, as a share of the drawings' steepness.
        `frechet`: Fréchet distance of the judge's features; `frechet_drawn`: that of other drawings of the scenes.
        `reconstruction`: of the drawings by the autoencoder, at its own size and then enlarged: PSNR in dB.
        `reconstruction_edges`: how steep their edges are.
    """
    truth = drawn(scenes, scorer.side)
    others = drawn([replace(scene, seed=scene.seed + 1) for scene in scenes], scorer.side)
    copies = enlarged(reconstructed(vae, drawn(scenes, vae.config.sample_size)), scorer.side)
    shown = enlarged(pictures, scorer.side)
    features = {name: scorer.look(some).features for name, some in (("t", truth), ("o", others), ("s", shown))}
    looks = {
        "edges": steepness(shown) / steepness(truth),
        "frechet": frechet(features["s"], features["t"]),
        "frechet_drawn": frechet(features["o"], features["t"]),
        "reconstruction": signal_to_noise(copies, truth),
        "reconstruction_edges": steepness(copies) / steepness(truth),
    }
    return {name: round(value, 4) for name, value in looks.items()}


def judge(
    scorer: Scorer, scenes: list[Scene], pictures: Tensor, own: dict[str, float], looks: dict[str, float]
) -> Result:
    """Compares the judge's answers with the captions."""
    answers, _ = scorer.read(pictures)
    truths = torch.tensor([truth_of(scene) for scene in scenes])[:, : len(OF_SCENE)]
    right = torch.stack([answers[name].cpu() for name in OF_SCENE], dim=1) == truths
    of_object = {name: torch.tensor([scene.object == name for scene in scenes]) for name in OBJECTS}
    return Result(
        captions=len(scenes),
        steps=STEPS,
        guidance=GUIDANCE,
        accuracy=dict(zip(OF_SCENE, (round(share, 4) for share in right.float().mean(0).tolist()), strict=True)),
        all_right=round(right.all(1).float().mean().item(), 4),
        by_object={name: round(right[rows, 0].float().mean().item(), 4) for name, rows in of_object.items()},
        judge=own,
        looks=looks,
    )


def own_accuracy(file: Path) -> dict[str, float]:
    """The judge's accuracy, saved by `save_scorer`."""
    with safe_open(file, "pt") as tensors:
        return json.loads(tensors.metadata()["held_out_accuracy"])


def write_result(result: Result, folder: Path) -> str:
    """Writes `evaluation.json` and `evaluation.md`. Returns the table."""
    lines = ["| attribute | generated | target | judge, on drawn pictures |", "| --- | ---: | ---: | ---: |"]
    for name, share in result.accuracy.items():
        target = f"{TARGETS[name]:.0%}" if name in TARGETS else ""
        lines.append(f"| {name} | {share:.1%} | {target} | {result.judge[name]:.1%} |")
    lines += [f"| all of them | {result.all_right:.1%} | | |", ""]
    lines += ["| object | taken for it |", "| --- | ---: |"]
    lines += [f"| {name} | {share:.0%} |" for name, share in result.by_object.items()]
    lines += ["", "| beside drawings of the same scenes | |", "| --- | ---: |"]
    lines += [f"| {name} | {value:.3f} |" for name, value in result.looks.items()]
    table = "\n".join(lines) + "\n"
    write_text(folder / "evaluation.json", json.dumps(asdict(result), indent=2) + "\n")
    write_text(folder / "evaluation.md", table)
    return table


def save_sheet(file: Path, pictures: list[Image.Image], labels: list[str], columns: int) -> None:
    """Writes a sheet of square pictures with a label below each; small ones are enlarged."""
    side = pictures[0].width * math.ceil(LEAST_SIDE / pictures[0].width)
    font = ImageFont.load_default(10)
    foot = max(len(_folded(label, side)) for label in labels) * 11 + 2
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + GAP) + GAP, rows * (side + foot + GAP) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for k, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = GAP + k % columns * (side + GAP), GAP + k // columns * (side + foot + GAP)
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x, y))
        pen.multiline_text((x, y + side), "\n".join(_folded(label, side)), (60, 60, 60), font, spacing=0)
    with written(file) as temporary:
        sheet.save(temporary)


def _folded(label: str, width: int) -> list[str]:
    lines, room = [""], width // 5
    for word in label.split():
        if len(lines[-1]) + len(word) >= room and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def blind_sheet(pipeline: StableDiffusion3Pipeline, folder: Path, seed: int, count: int = 40) -> None:
    """Writes `blind.png`, numbered pictures in random order without captions, and `blind.json`, their captions."""
    scenes = unseen_scenes(count, seed + 1)
    random.Random(seed).shuffle(scenes)
    captions = [full_caption(scene) for scene in scenes]
    pictures = [as_image(picture) for picture in generate(pipeline, captions, seed + 7000)]
    save_sheet(folder / "blind.png", pictures, [str(k) for k in range(count)], columns=8)
    write_text(folder / "blind.json", json.dumps(dict(enumerate(captions)), indent=1) + "\n")
