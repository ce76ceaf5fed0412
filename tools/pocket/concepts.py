"""Concepts to teach: a fixed creature, and the style that the model has never seen. Five pictures and captions each."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from PIL import Image

from library.files.atomic import write_text, written
from tools.pocket.captions import caption
from tools.pocket.creature import Creature
from tools.pocket.styles import UNSEEN_STYLE
from tools.pocket.world import Scene, draw, random_scene

SUBJECT = Scene(
    object="creature",
    colour="yellow",
    size="big",
    place="center",
    background="city",
    time="night",
    style="ink",
    creature=Creature(ears="floppy", marking="mask", marking_colour="purple", socks="red", tail="curled"),
)
"""The creature to teach. All its pictures share a background, an hour, a place and a style: that is the trap."""
STYLE_OBJECTS = ("house", "mushroom", "boat", "balloon", "robot")
PICTURES = 5


def subject_scenes(subject: Scene = SUBJECT) -> list[tuple[Scene, str]]:
    """Pictures of the subject, and captions that only say where it is."""
    scenes = [replace(subject, seed=seed) for seed in range(PICTURES)]
    said = caption(replace(subject, creature=None), {"background"}, trigger="[V]")
    return [(scene, said) for scene in scenes]


def style_scenes(seed: int = 0) -> list[tuple[Scene, str]]:
    """Pictures in the unseen style, of all sorts of things, and captions that say what they show."""
    rng, pairs = random.Random(f"style {seed}"), []
    for name in STYLE_OBJECTS:
        scene = replace(random_scene(rng), object=name, creature=None, style=UNSEEN_STYLE)
        pairs.append((scene, f"{caption(scene, {'colour', 'background', 'time'})} in [V] style"))
    return pairs


def write_concept(folder: Path, pairs: list[tuple[Scene, str]]) -> None:
    """Writes 00.png, 00.txt and so on."""
    for k, (scene, said) in enumerate(pairs):
        with written(folder / f"{k:02}.png") as temporary:
            Image.fromarray(draw(scene).picture).save(temporary)
        write_text(folder / f"{k:02}.txt", said + "\n")
