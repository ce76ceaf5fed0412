"""The pocket SD3: python -m tools.pocket train | finish | evaluate | sheet | concepts"""

from __future__ import annotations

import argparse
import os
import random
import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from library.errors import exit_code_of
from library.report.sheet import as_image
from library.terminal import outlive_the_terminal
from tools.pocket.captions import full_caption
from tools.pocket.concepts import style_scenes, subject_scenes, write_concept
from tools.pocket.evaluate import (
    ASKED,
    blind_sheet,
    compare,
    generate,
    judge,
    load_pipeline,
    own_accuracy,
    save_sheet,
    unseen_scenes,
    write_result,
)
from tools.pocket.plot import plot_curves
from tools.pocket.publish import publish
from tools.pocket.recipe import JUDGE, RECIPES, STAGES, Kitchen, Recipe
from tools.pocket.scorer import load_scorer
from tools.pocket.stage import Workplace
from tools.pocket.styles import STYLES
from tools.pocket.tokenizers import LENGTH
from tools.pocket.world import draw, random_scene

DOCS = Path("docs/pocket")
SHOWN = 24


def say(text: str) -> None:
    """Prints for the user."""
    print(text, flush=True)


def device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe from the command line, or the one for this machine."""
    return RECIPES[arguments.recipe or {"cuda": "gpu", "cpu": "cpu"}[device()]]


def train(arguments: argparse.Namespace) -> None:
    """Follows the recipe from where it stopped; all of it, or one stage."""
    recipe = recipe_of(arguments)
    if arguments.minutes is not None:
        recipe = replace(recipe, flow=replace(recipe.flow, minutes=arguments.minutes))
    kitchen = Kitchen(recipe, Workplace(arguments.work, arguments.seed, device(), say), arguments.start)
    for stage in [arguments.only] if arguments.only else STAGES:
        getattr(kitchen, stage)()
    if not arguments.only:
        finish(arguments)


def finish(arguments: argparse.Namespace) -> None:
    """Writes the diffusers folder from the stages' current state, whether or not they are done."""
    recipe = recipe_of(arguments).as_it_stands()
    kitchen = Kitchen(recipe, Workplace(arguments.work, arguments.seed, device(), say), arguments.start)
    publish(kitchen.decoder(), kitchen.flow(), recipe.shift, arguments.model)
    say(f"{arguments.model}: {sum(file.stat().st_size for file in arguments.model.rglob('*')) / 1e6:.1f} MB.")
    say(f"Give max_sequence_length={LENGTH} to the pipeline: the model was trained with this number of T5 tokens.")


def evaluate(arguments: argparse.Namespace) -> None:
    """Draws held-out captions; writes the judge's results, a comparison with drawings, and the curves."""
    file = arguments.judge or arguments.model.parent / JUDGE
    scorer = load_scorer(file)
    scenes = unseen_scenes(arguments.captions, arguments.seed)
    pipeline = load_pipeline(arguments.model, device())
    pictures = generate(pipeline, [full_caption(scene) for scene in scenes], arguments.seed)
    looks = compare(pipeline.vae, scorer, scenes, pictures)
    result = judge(scorer, scenes, pictures, own_accuracy(file), looks)
    say(write_result(result, arguments.docs))
    if any((arguments.work / f"{stage}.safetensors").exists() for stage in STAGES):
        plot_curves(arguments.work, STAGES, arguments.docs / "training.png")


def sheet(arguments: argparse.Namespace) -> None:
    """Draws sheets: of the world itself, of the model's pictures for captions, and a blind one."""
    rng = random.Random(arguments.seed)
    scenes = [replace(random_scene(rng), style=tuple(STYLES)[k % len(STYLES)]) for k in range(SHOWN)]
    drawings = [draw(scene) for scene in scenes]
    save_sheet(
        arguments.docs / "world.png", [Image.fromarray(d.picture) for d in drawings], [d.caption for d in drawings], 8
    )
    pipeline = load_pipeline(arguments.model, device())
    captions = [full_caption(scene) for scene in unseen_scenes(SHOWN, arguments.seed + 2)]
    pictures = [as_image(picture) for picture in generate(pipeline, captions, arguments.seed + 9000)]
    save_sheet(arguments.docs / "samples.png", pictures, captions, 8)
    blind_sheet(pipeline, arguments.docs, arguments.seed)


def concepts(arguments: argparse.Namespace) -> None:
    """Draws the reference pictures of a subject and of a style."""
    write_concept(arguments.pocket / "subject-creature", subject_scenes())
    write_concept(arguments.pocket / "style-glass", style_scenes(arguments.seed))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m tools.pocket", description=__doc__)
    commands = top.add_subparsers(required=True)
    for act in (train, finish, evaluate, sheet, concepts):
        command = commands.add_parser(act.__name__, help=act.__doc__, description=act.__doc__)
        command.set_defaults(act=act)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument(
            "--work", type=Path, default=Path("output/pocket"), help="Where the stages keep their state."
        )
        model = Path("output/pocket/model") if act in (train, finish) else Path("pocket/model")
        command.add_argument("--model", type=Path, default=model, help=f"The diffusers folder. Default: {model}.")
        command.add_argument("--docs", type=Path, default=DOCS, help="Where tables and sheets go.")
        command.add_argument("--threads", type=int, default=None, help="Threads of the CPU; all of them if not given.")
        if act in (train, finish):
            command.add_argument("--recipe", choices=RECIPES, help='"gpu" if there is one, else "cpu".')
            command.add_argument("--start", type=Path, help="A published model to begin with, where its shapes fit.")
        if act is train:
            command.add_argument("--only", choices=STAGES, help="One stage, and what it needs.")
            command.add_argument("--minutes", type=float, help="At most so long for the flow model.")
        elif act is evaluate:
            command.add_argument("--captions", type=int, default=ASKED)
            judge_help = "Judge to use instead of the one next to the model, for example that of a larger model."
            command.add_argument("--judge", type=Path, help=judge_help)
        elif act is concepts:
            command.add_argument("--pocket", type=Path, default=Path("pocket"))
    return top


def main() -> None:
    """Runs the command line."""
    arguments = parser().parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.act(arguments)


if __name__ == "__main__":
    outlive_the_terminal()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(exit_code_of(main, lambda: None))
