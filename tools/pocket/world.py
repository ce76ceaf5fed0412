"""The pocket world: scenes, their pictures and their captions, exact functions of a seed."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

import numpy as np

from tools.pocket.creature import Creature, draw_creature
from tools.pocket.objects import THINGS
from tools.pocket.palette import COLOURS
from tools.pocket.pen import FINE, OBJECT, SIDE
from tools.pocket.scenery import BACKGROUNDS, Light, draw_scenery
from tools.pocket.styles import ALL_STYLES, STYLES

OBJECTS = ("creature", *THINGS)
CREATURE_SHARE = 0.25
"""Creatures are drawn more often than any other thing, since there is most to learn about them."""
SIZES = {"small": 13.0, "big": 18.5}
"""Half the width of an object, in units of the world, which is 64 units wide."""
PLACES = {"left": 19.0, "center": 32.0, "right": 45.0}
"""Where its middle is, in the same units."""
TIMES = ("day", "night")
HELD_OUT_ONE_IN = 16
"""One in N combinations of attributes is never trained on."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "object": OBJECTS,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "place": tuple(PLACES),
    "background": tuple(BACKGROUNDS),
    "time": TIMES,
    "style": tuple(STYLES),
}
"""What a caption can say, and its words."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that defines a picture. The seed decides details such as clouds, trees and a car's direction."""

    object: str
    colour: str
    size: str
    place: str
    background: str
    time: str
    style: str
    creature: Creature | None = None
    seed: int = 0

    def attributes(self) -> dict[str, str]:
        """What a caption can say about it, by the names of `ATTRIBUTES`."""
        return {name: getattr(self, name) for name in ATTRIBUTES}


@dataclass(frozen=True)
class Drawing:
    """A picture and the truth about it.

    Attributes:
        picture: (side, side, 3), uint8, RGB.
        caption: everything that can be said about it.
        mask: (side, side), bool, true on the object.
        regions: (side, side), uint8, an index into `pen.REGIONS`.
        attributes: of the scene.
    """

    picture: np.ndarray
    caption: str
    mask: np.ndarray
    regions: np.ndarray
    attributes: dict[str, str] = field(default_factory=dict)


def is_held_out(scene: Scene) -> bool:
    """Whether this combination of attributes is held out from training, for the evaluation."""
    return zlib.crc32(" ".join(scene.attributes().values()).encode()) % HELD_OUT_ONE_IN == 0


def random_scene(rng: random.Random, held_out: bool = False) -> Scene:
    """A random scene of the world that the model is taught, or of the held-out part; neither has the unseen style."""
    while True:
        scene = _any_scene(rng)
        if is_held_out(scene) == held_out:
            return scene


def _any_scene(rng: random.Random) -> Scene:
    name = "creature" if rng.random() < CREATURE_SHARE else rng.choice(tuple(THINGS))
    colour = rng.choice(tuple(COLOURS))
    return Scene(
        object=name,
        colour=colour,
        size=rng.choice(tuple(SIZES)),
        place=rng.choice(tuple(PLACES)),
        background=rng.choice(tuple(BACKGROUNDS)),
        time=rng.choice(TIMES),
        style=rng.choice(tuple(STYLES)),
        creature=Creature.random(rng, colour) if name == "creature" else None,
        seed=rng.getrandbits(32),
    )


def draw(scene: Scene, side: int = SIDE) -> Drawing:
    """The picture of a scene, its full caption, its mask and its attributes.

    Args:
        side: of the picture, in pixels, a multiple of 32. It shows the same at every size, with more details if larger.
    """
    from tools.pocket.captions import full_caption  # captions read this file's vocabulary

    rng = random.Random(scene.seed)
    style = ALL_STYLES[scene.style]
    light = Light(scene.time == "night")
    pen = draw_scenery(style, scene.background, light.night, side, rng).of(OBJECT)
    x, foot = PLACES[scene.place] + rng.uniform(-1.5, 1.5), rng.uniform(56.0, 60.0)
    at = pen.placed(x, foot, SIZES[scene.size] * rng.uniform(0.95, 1.05), mirrored=rng.random() < 0.5)
    colour = light.on_object(COLOURS[scene.colour])
    if scene.creature is not None:
        draw_creature(at, colour, scene.creature, light.on_object)
    else:
        THINGS[scene.object](at, colour)
    picture = style.finish(pen.canvas.reduce(FINE))
    regions = np.asarray(pen.region_canvas)
    return Drawing(np.asarray(picture), full_caption(scene), regions == OBJECT, regions, scene.attributes())
