"""Backgrounds: a sky by day or by night, and a place for the object."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tools.pocket.palette import GOLD, WHITE, Colour, by_night, lighter, mix
from tools.pocket.pen import GROUND, SCENERY, SKY, WORLD, Pen
from tools.pocket.styles import Style

DAY_SKY: tuple[Colour, Colour] = ((96, 176, 240), (206, 234, 250))
NIGHT_SKY: tuple[Colour, Colour] = ((18, 20, 58), (62, 58, 122))
NIGHT = 0.6
"""How dark the ground is by night."""
NIGHT_OBJECT = 0.14
"""How dark the object is by night: only a little, so that it keeps its colour."""
MARGIN = 6
"""Shapes extend this far past the edges, so that no outline shows there."""


@dataclass(frozen=True)
class Light:
    """Changes colours by the light of the hour."""

    night: bool

    def on(self, colour: Colour) -> Colour:
        """A colour of the background."""
        return by_night(colour, NIGHT) if self.night else colour

    def on_object(self, colour: Colour) -> Colour:
        """A colour of the object in front."""
        return by_night(colour, NIGHT_OBJECT) if self.night else colour


def draw_scenery(style: Style, background: str, night: bool, side: int, rng: random.Random) -> Pen:
    """Draws sky and place, for a picture of `side` x `side` pixels. Returns the pen that drew them."""
    light = Light(night)
    pen = Pen.on_sky(style, *(NIGHT_SKY if night else DAY_SKY), side)
    _heaven(pen, night, rng)
    horizon = rng.uniform(33, 38)
    BACKGROUNDS[background](pen, light, horizon, rng)
    style.behind(pen.draw, pen.canvas.width, pen.pixels, rng)
    return pen


def _heaven(pen: Pen, night: bool, rng: random.Random) -> None:
    x, y = rng.choice((rng.uniform(7, 20), rng.uniform(44, 57))), rng.uniform(7, 12)
    if night:
        for _ in range(9):
            r = rng.uniform(0.5, 0.9)
            pen.oval(rng.uniform(1, 63), rng.uniform(1, 30), r, r, (255, 248, 214), plain=True)
        pen.oval(x, y, 5.2, 5.2, (255, 244, 200), plain=True)
        pen.oval(x + 2.3, y - 1.2, 4.4, 4.4, mix(*NIGHT_SKY, 0.3), plain=True)
    else:
        pen.oval(x, y, 5, 5, GOLD)
        for _ in range(2):
            cx, cy = rng.uniform(4, 60), rng.uniform(5, 20)
            for dx, r in ((-3.4, 1.9), (0, 2.7), (3.4, 2.0)):
                pen.oval(cx + dx, cy + (0.4 if dx else 0), r * 1.4, r, WHITE, plain=True)


def _ground(pen: Pen, horizon: float, colour: Colour) -> Pen:
    ground = pen.of(GROUND)
    ground.box(-MARGIN, horizon, WORLD + MARGIN, WORLD + MARGIN, colour)
    return ground


def _hills(pen: Pen, y: float, height: float, colour: Colour, rng: random.Random) -> None:
    for x in (rng.uniform(0, 12), rng.uniform(24, 40), rng.uniform(52, 64)):
        pen.oval(x, y + 3, rng.uniform(14, 22), height, colour)


def _conifer(pen: Pen, x: float, y: float, h: float, colour: Colour, tip: Colour | None = None) -> None:
    pen.box(x - 0.09 * h, y - 0.2 * h, x + 0.09 * h, y, (110, 78, 60), plain=True)
    pen.shape([(x - 0.36 * h, y - 0.14 * h), (x, y - 0.72 * h), (x + 0.36 * h, y - 0.14 * h)], colour)
    pen.shape([(x - 0.28 * h, y - 0.46 * h), (x, y - h), (x + 0.28 * h, y - 0.46 * h)], tip or colour)


def _city(pen: Pen, light: Light, horizon: float, rng: random.Random) -> None:
    towers, x = pen.of(SCENERY), -2.0
    window = GOLD if light.night else (226, 238, 248)
    while x < WORLD:
        width, height = rng.uniform(9, 13), rng.uniform(14, 27)
        wall = light.on(rng.choice(((148, 152, 176), (176, 150, 146), (122, 136, 164), (190, 178, 160))))
        towers.box(x, horizon - height, x + width, horizon + 4, wall)
        for wy in range(int(horizon - height) + 4, int(horizon) - 3, 6):
            for wx in (x + 2.2, x + width - 4.6):
                towers.box(wx, wy, wx + 2.4, wy + 3, window, plain=True)
        x += width + rng.uniform(0.5, 1.5)
    road = _ground(pen, horizon, light.on((112, 114, 126)))
    for k in range(5):
        road.box(k * 15 - 3, horizon + 12, k * 15 + 5, horizon + 14, light.on((232, 226, 200)), plain=True)


def _beach(pen: Pen, light: Light, horizon: float, rng: random.Random) -> None:
    pen.of(SCENERY).box(-MARGIN, horizon - 7, WORLD + MARGIN, horizon + 6, light.on((40, 142, 196)))
    for _ in range(4):
        x, y = rng.uniform(0, 56), horizon - 5 + rng.uniform(0, 6)
        pen.of(SCENERY).box(x, y, x + 7, y + 1, light.on((190, 232, 244)), plain=True)
    _ground(pen, horizon + 3, light.on((246, 218, 150)))
    palm, x = pen.of(SCENERY), rng.choice((rng.uniform(3, 10), rng.uniform(54, 61)))
    lean = 3 if x < 32 else -3
    palm.ribbon(
        [(x, horizon + 8), (x + lean * 0.4, horizon - 4), (x + lean, horizon - 14)], 2.4, light.on((150, 104, 64))
    )
    for turn in (-2.7, -0.45, 0.35, 2.75):
        leaf_x, leaf_y = (5 if abs(turn) < 1 else -5), (2.0 if turn in (0.35, 2.75) else -1.2)
        palm.oval(x + lean + leaf_x, horizon - 14 + leaf_y, 5.6, 1.9, light.on((58, 152, 74)), turn=turn)


def _forest(pen: Pen, light: Light, horizon: float, rng: random.Random) -> None:
    back, front = light.on((52, 118, 76)), light.on((38, 94, 58))
    trees = pen.of(SCENERY)
    for k in range(6):
        _conifer(trees, k * 13 - 1 + rng.uniform(-2, 2), horizon + 2, rng.uniform(20, 25), back)
    for k in range(5):
        _conifer(trees, k * 16 + rng.uniform(-3, 3), horizon + 4, rng.uniform(24, 31), front)
    _ground(pen, horizon, light.on((112, 168, 72)))


def _desert(pen: Pen, light: Light, horizon: float, rng: random.Random) -> None:
    _hills(pen.of(SCENERY), horizon, rng.uniform(8, 12), light.on((226, 160, 92)), rng)
    _ground(pen, horizon, light.on((238, 184, 112)))
    cacti = pen.of(SCENERY)
    green = light.on((72, 142, 84))
    for x in (rng.uniform(2, 14), rng.uniform(50, 62)):
        h = rng.uniform(13, 18)
        foot = horizon + rng.uniform(1, 5)
        cacti.pill(x - 4.6, foot - h * 0.72, x - 2.2, foot - h * 0.3, 1.2, green)
        cacti.pill(x + 2.2, foot - h * 0.85, x + 4.6, foot - h * 0.42, 1.2, green)
        cacti.box(x - 4, foot - h * 0.45, x + 4, foot - h * 0.3, green, plain=True)
        cacti.pill(x - 1.7, foot - h, x + 1.7, foot, 1.6, green)


def _snow(pen: Pen, light: Light, horizon: float, rng: random.Random) -> None:
    _hills(pen.of(SCENERY), horizon, rng.uniform(7, 11), light.on((200, 220, 240)), rng)
    trees = pen.of(SCENERY)
    for x in (rng.uniform(0, 9), rng.uniform(11, 22), rng.uniform(42, 52), rng.uniform(54, 63)):
        _conifer(trees, x, horizon + 3, rng.uniform(15, 22), light.on((96, 148, 150)), light.on((240, 246, 252)))
    _ground(pen, horizon, light.on((238, 244, 252)))
    flake = lighter(light.on(WHITE), 0.5)
    for _ in range(16):
        pen.of(SKY).oval(rng.uniform(0, 64), rng.uniform(0, 62), 0.9, 0.9, flake, plain=True)


def _mountains(pen: Pen, light: Light, horizon: float, rng: random.Random) -> None:
    peaks = pen.of(SCENERY)
    for x in (rng.uniform(2, 14), rng.uniform(48, 62), rng.uniform(24, 40)):
        h, half = rng.uniform(20, 29), rng.uniform(17, 22)
        top = horizon - h
        peaks.shape([(x - half, horizon + 3), (x, top), (x + half, horizon + 3)], light.on((128, 122, 152)))
        share = 0.36
        w = half * share * h / (h + 3)
        cap = [
            (x - w, top + h * share),
            (x - w * 0.3, top + h * 0.28),
            (x + w * 0.3, top + h * share),
            (x + w, top + h * share),
        ]
        peaks.shape([(x, top), *reversed(cap)], light.on((248, 250, 255)), plain=True)
    _ground(pen, horizon, light.on((138, 190, 96)))


BACKGROUNDS: dict[str, Callable[[Pen, Light, float, random.Random], None]] = {
    "city": _city,
    "beach": _beach,
    "forest": _forest,
    "desert": _desert,
    "snow": _snow,
    "mountains": _mountains,
}
"""The places of the world, by their words."""
