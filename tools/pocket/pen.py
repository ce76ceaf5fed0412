"""A pen that draws smooth shapes in a drawing style, and records which part of the picture each pixel belongs to.

Pictures are `WORLD` units wide and high at any size in pixels; x grows to the right, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from PIL import Image, ImageDraw

from tools.pocket.palette import Colour, mix
from tools.pocket.styles import Style

WORLD = 64
"""Width and height of the world, in its units."""
SIDE = 96
"""Side of the published model's pictures, in pixels."""
FINE = 4
"""Shapes are drawn this many times larger and then shrunk, which smooths their edges."""
DETAILED = 1.5
"""Pixels per unit from which details are drawn; fewer could not show them."""

SKY, SCENERY, GROUND, OBJECT = range(4)
"""What a pixel belongs to."""
REGIONS = ("sky", "scenery", "ground", "object")

Point = tuple[float, float]

_CIRCLE = [(math.cos(2 * math.pi * k / 24), math.sin(2 * math.pi * k / 24)) for k in range(24)]


@lru_cache(maxsize=64)
def _gradient(top: Colour, bottom: Colour, side: int) -> Image.Image:
    """A canvas whose colour goes from top to bottom, through at the middle."""
    column = Image.new("RGB", (1, side))
    for y in range(side):
        column.putpixel((0, y), mix(top, bottom, min(1.0, 1.6 * y / side)))
    return column.resize((side, side))


@dataclass(frozen=True)
class Pen:
    """Draws on a canvas in its own units: (x, y) is (left + x * across, top + y * down) in the world's.

    `pixels` is how many pixels of the finished picture make up a unit of the world: 1.5 at 96 x 96.
    """

    style: Style
    canvas: Image.Image
    draw: ImageDraw.ImageDraw
    regions: ImageDraw.ImageDraw
    region_canvas: Image.Image
    pixels: float
    region: int = SKY
    left: float = 0.0
    top: float = 0.0
    across: float = 1.0
    down: float = 1.0

    @classmethod
    def on_sky(cls, style: Style, top: Colour, bottom: Colour, side: int) -> Pen:
        """A pen on a fresh canvas that is all sky, for a picture of `side` x `side` pixels."""
        canvas = _gradient(style.tint(top), style.tint(bottom), side * FINE).copy()
        regions = Image.new("L", (side, side), SKY)
        return cls(style, canvas, ImageDraw.Draw(canvas, "RGBA"), ImageDraw.Draw(regions), regions, side / WORLD)

    @property
    def is_detailed(self) -> bool:
        """Whether the picture is large enough for details."""
        return self.pixels >= DETAILED

    def of(self, region: int) -> Pen:
        """The same pen, for another part of the picture."""
        return replace(self, region=region)

    def placed(self, x: float, y: float, scale: float, mirrored: bool = False) -> Pen:
        """The same pen in units of `scale`, with (0, 0) at (x, y)."""
        return replace(self, left=x, top=y, across=-scale if mirrored else scale, down=scale)

    def shape(self, points: Sequence[Point], colour: Colour, plain: bool = False) -> None:
        """A filled polygon. `plain` omits the style's treatment, for details."""
        placed = [
            (self.pixels * (self.left + x * self.across), self.pixels * (self.top + y * self.down)) for x, y in points
        ]
        fine = [(x * FINE, y * FINE) for x, y in placed]
        if plain:
            self.draw.polygon(fine, fill=self.style.tint(colour))
        else:
            self.style.fill(self.draw, fine, self.style.tint(colour), self.region == OBJECT, self.pixels)
        if self.region != SKY:
            self.regions.polygon(placed, fill=self.region)

    def oval(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, turn: float = 0.0, plain: bool = False
    ) -> None:
        """An ellipse around (x, y), turned by `turn` radians."""
        c, s = math.cos(turn), math.sin(turn)
        points = [(x + a * rx * c - b * ry * s, y + a * rx * s + b * ry * c) for a, b in _CIRCLE]
        self.shape(points, colour, plain)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, plain: bool = False) -> None:
        """A rectangle."""
        self.shape([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, plain)

    def pill(
        self, x0: float, y0: float, x1: float, y1: float, radius: float, colour: Colour, plain: bool = False
    ) -> None:
        """A rectangle with round corners."""
        points = []
        for cx, cy, start in (
            (x1 - radius, y1 - radius, 0),
            (x0 + radius, y1 - radius, 6),
            (x0 + radius, y0 + radius, 12),
            (x1 - radius, y0 + radius, 18),
        ):
            corner = [_CIRCLE[(start + k) % 24] for k in range(7)]
            points += [(cx + radius * a, cy + radius * b) for a, b in corner]
        self.shape(points, colour, plain)

    def ribbon(self, points: Sequence[Point], width: float, colour: Colour, plain: bool = False) -> None:
        """A thick line through the points, as one shape."""
        one_side, other_side = [], []
        for k, (x, y) in enumerate(points):
            (ax, ay), (bx, by) = points[max(k - 1, 0)], points[min(k + 1, len(points) - 1)]
            length = math.hypot(bx - ax, by - ay) or 1.0
            nx, ny = -(by - ay) / length * width / 2, (bx - ax) / length * width / 2
            one_side.append((x + nx, y + ny))
            other_side.append((x - nx, y - ny))
        self.shape(one_side + other_side[::-1], colour, plain)
