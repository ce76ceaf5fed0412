"""Drawing styles: how they change colours, shapes and the finished picture."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFilter

from tools.pocket.palette import CREAM, INK, WHITE, Colour, darker, lighter, mix

LEAD: Colour = (14, 12, 20)
GLOW: tuple[Colour, ...] = ((255, 120, 120), (255, 220, 90), (110, 240, 200))
"""Colours of some panes of a stained-glass window."""

Points = Sequence[tuple[float, float]]
Fill = Callable[[ImageDraw.ImageDraw, Points, Colour, bool, float], None]
"""Draws a shape in a colour, given whether it is in front and how many pixels of the finished picture are a unit."""


def _inset(points: Points, scale: float, right: float, down: float) -> list[tuple[float, float]]:
    """The shape shrunk around its middle and moved by shares of its size."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    cx, cy = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    return [(cx + (x - cx) * scale + right * width, cy + (y - cy) * scale + down * height) for x, y in points]


def _clay_fill(draw: ImageDraw.ImageDraw, points: Points, colour: Colour, in_front: bool, pixels: float) -> None:
    """Rounded by light from the upper left."""
    if not in_front:
        draw.polygon(points, fill=darker(colour, 0.12))
        draw.polygon(_inset(points, 0.9, -0.03, -0.03), fill=colour)
        return
    draw.polygon(points, fill=darker(colour, 0.38))
    draw.polygon(_inset(points, 0.86, -0.04, -0.05), fill=colour)
    draw.polygon(_inset(points, 0.42, -0.14, -0.18), fill=lighter(colour, 0.38))


def _ink_fill(draw: ImageDraw.ImageDraw, points: Points, colour: Colour, in_front: bool, pixels: float) -> None:
    """Flat colour in a dark outline."""
    draw.polygon(points, fill=colour)
    draw.line([*points, points[0], points[1]], fill=INK, width=round(pixels * (7 if in_front else 5)), joint="curve")


def _paper_fill(draw: ImageDraw.ImageDraw, points: Points, colour: Colour, in_front: bool, pixels: float) -> None:
    """Cut from cardboard: a white edge and a shadow on what is behind."""
    drop = pixels * (13 if in_front else 9)
    draw.polygon([(x + drop, y + drop) for x, y in points], fill=(*INK, 120))
    draw.polygon(points, fill=colour)
    draw.line([*points, points[0], points[1]], fill=CREAM, width=round(pixels * (7 if in_front else 4)), joint="curve")


def _watercolor_fill(draw: ImageDraw.ImageDraw, points: Points, colour: Colour, in_front: bool, pixels: float) -> None:
    """A wash, darker where it dried last."""
    draw.polygon(points, fill=(*darker(colour, 0.1), 255 if in_front else 190))
    if in_front:
        draw.polygon(_inset(points, 0.76, 0.03, 0.07), fill=(*lighter(colour, 0.42), 170))


def _glass_fill(draw: ImageDraw.ImageDraw, points: Points, colour: Colour, in_front: bool, pixels: float) -> None:
    """A pane in lead."""
    draw.polygon(points, fill=colour)
    draw.polygon(_inset(points, 0.5, -0.12, -0.12), fill=(*WHITE, 70))
    draw.line([*points, points[0], points[1]], fill=LEAD, width=round(pixels * (8 if in_front else 6)), joint="curve")


def _as_it_is(picture: Image.Image) -> Image.Image:
    return picture


def _bled(picture: Image.Image) -> Image.Image:
    """Colours that bleed a little, on warm paper."""
    soft = picture.filter(ImageFilter.GaussianBlur(0.55))
    return Image.blend(soft, Image.new("RGB", soft.size, CREAM), 0.1)


def _nothing_behind(draw: ImageDraw.ImageDraw, side: int, pixels: float, rng: random.Random) -> None:
    """Does nothing: most styles leave the background alone."""


def _leaded(draw: ImageDraw.ImageDraw, side: int, pixels: float, rng: random.Random) -> None:
    """Panes of lighter and darker glass in lead, all across the background."""
    xs = [side * (k + rng.uniform(-0.25, 0.25)) / 4 for k in range(6)]
    tops, bottoms = [x + pixels * rng.uniform(-18, 18) for x in xs], [x + pixels * rng.uniform(-50, 50) for x in xs]
    for k in range(5):
        shade = (*WHITE, rng.randint(60, 120)) if k % 2 else (*GLOW[k // 2], 70)
        draw.polygon([(tops[k], 0), (tops[k + 1], 0), (bottoms[k + 1], side), (bottoms[k], side)], fill=shade)
    for top, bottom in zip(tops, bottoms, strict=True):
        draw.line([(top, 0), (bottom, side)], fill=LEAD, width=round(7 * pixels))
    for k in (1, 2, 3):
        y = side * (k + rng.uniform(-0.2, 0.2)) / 4
        draw.line([(0, y), (side, y + pixels * rng.uniform(-30, 30))], fill=LEAD, width=round(7 * pixels))


@dataclass(frozen=True)
class Style:
    """How a picture is drawn.

    Attributes:
        fill: draws one shape; told whether it belongs to the object in front.
        tint: changes every colour, including the sky.
        behind: changes the background before the object is drawn, given the canvas' side and the pixels per unit.
        finish: changes the picture at its final size.
    """

    fill: Fill
    tint: Callable[[Colour], Colour]
    behind: Callable[[ImageDraw.ImageDraw, int, float, random.Random], None] = _nothing_behind
    finish: Callable[[Image.Image], Image.Image] = _as_it_is


STYLES: dict[str, Style] = {
    "clay": Style(_clay_fill, tint=lambda colour: colour),
    "ink": Style(_ink_fill, tint=lambda colour: mix(colour, CREAM, 0.1)),
    "paper": Style(_paper_fill, tint=lambda colour: colour),
    "watercolor": Style(_watercolor_fill, tint=lambda colour: lighter(colour, 0.06), finish=_bled),
}
"""The styles that the model is taught, by their words."""

UNSEEN_STYLE = "glass"
ALL_STYLES: dict[str, Style] = {
    **STYLES,
    UNSEEN_STYLE: Style(_glass_fill, tint=lambda colour: colour, behind=_leaded),
}
"""Also with the one that the model never sees, so that it can be taught as a concept."""
