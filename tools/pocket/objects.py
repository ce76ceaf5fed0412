"""The things of the world. Each stands on the ground (y = 0), about two units wide and high, in one named colour."""

from __future__ import annotations

import math

from tools.pocket.palette import CREAM, GLASS, GOLD, INK, SLATE, STEEL, WHITE, WOOD, Colour, darker, lighter
from tools.pocket.pen import Pen

LEAF: Colour = (74, 150, 66)


def house(pen: Pen, colour: Colour) -> None:
    """Walls under a gable, a chimney, a door and a lit window."""
    pen.box(0.38, -2.05, 0.64, -1.3, WOOD)
    pen.box(-0.82, -1.2, 0.82, 0, colour)
    pen.shape([(-1.08, -1.12), (0, -2.1), (1.08, -1.12)], SLATE)
    pen.box(-0.62, -0.72, -0.14, 0, WOOD)
    pen.box(0.14, -0.9, 0.62, -0.42, GOLD)
    if pen.is_detailed:
        pen.box(0.35, -0.88, 0.41, -0.44, WOOD, plain=True)
        pen.box(0.16, -0.69, 0.6, -0.63, WOOD, plain=True)
        pen.oval(-0.23, -0.34, 0.05, 0.05, GOLD, plain=True)


def car(pen: Pen, colour: Colour) -> None:
    """A saloon with two windows and two wheels."""
    pen.shape([(-0.68, -0.75), (-0.42, -1.36), (0.4, -1.36), (0.76, -0.75)], colour)
    pen.shape([(-0.5, -0.78), (-0.33, -1.2), (-0.04, -1.2), (-0.04, -0.78)], GLASS, plain=True)
    pen.shape([(0.08, -0.78), (0.08, -1.2), (0.32, -1.2), (0.55, -0.78)], GLASS, plain=True)
    pen.pill(-1.12, -0.84, 1.12, -0.2, 0.22, colour)
    pen.oval(1.0, -0.58, 0.12, 0.12, GOLD, plain=True)
    for x in (-0.6, 0.6):
        pen.oval(x, -0.22, 0.31, 0.31, INK)
        pen.oval(x, -0.22, 0.14, 0.14, STEEL, plain=True)
    if pen.is_detailed:
        pen.box(-0.2, -0.66, -0.02, -0.6, INK, plain=True)


def boat(pen: Pen, colour: Colour) -> None:
    """A hull with two sails."""
    pen.box(-0.07, -2.15, 0.07, -0.6, WOOD)
    pen.shape([(0.12, -2.0), (0.98, -0.76), (0.12, -0.76)], CREAM)
    pen.shape([(-0.12, -1.8), (-0.12, -0.76), (-0.72, -0.76)], lighter(colour, 0.25))
    pen.shape([(-1.12, -0.64), (1.12, -0.64), (0.74, 0), (-0.74, 0)], colour)
    pen.box(-0.98, -0.5, 0.98, -0.4, WHITE, plain=True)
    if pen.is_detailed:
        for x in (-0.42, 0, 0.42):
            pen.oval(x, -0.2, 0.08, 0.08, WHITE, plain=True)


def rocket(pen: Pen, colour: Colour) -> None:
    """A body with a porthole, two fins and a flame."""
    pen.shape([(-0.28, -0.42), (0.28, -0.42), (0, 0.06)], GOLD)
    for side in (-1, 1):
        pen.shape([(0.36 * side, -1.0), (0.84 * side, -0.2), (0.34 * side, -0.4)], darker(colour, 0.4))
    side_line = [(0.46, -0.4), (0.5, -1.0), (0.4, -1.6), (0.18, -2.05), (0, -2.25)]
    pen.shape(side_line + [(-x, y) for x, y in reversed(side_line)], colour)
    pen.oval(0, -1.3, 0.26, 0.26, STEEL)
    pen.oval(0, -1.3, 0.17, 0.17, GLASS, plain=True)
    if pen.is_detailed:
        pen.oval(-0.05, -1.36, 0.06, 0.05, WHITE, plain=True)


def mushroom(pen: Pen, colour: Colour) -> None:
    """A cap with spots on a stem."""
    pen.shape([(-0.3, -1.0), (0.3, -1.0), (0.42, -0.1), (0.25, 0), (-0.25, 0), (-0.42, -0.1)], CREAM)
    dome = [(math.cos(a), -0.86 - 1.06 * math.sin(a)) for a in (k * math.pi / 14 for k in range(15))]
    pen.shape([*dome, (-0.7, -0.7), (0.7, -0.7)], colour)
    spot = WHITE if min(colour) < 190 else (214, 108, 98)
    for x, y, r in ((-0.5, -1.18, 0.17), (0.08, -1.48, 0.21), (0.58, -1.1, 0.14)):
        pen.oval(x, y, r, r * 0.9, spot, plain=True)


def flower(pen: Pen, colour: Colour) -> None:
    """Six petals on a stem with two leaves."""
    pen.box(-0.08, -1.2, 0.08, 0, LEAF)
    pen.oval(-0.36, -0.34, 0.36, 0.16, LEAF, turn=0.5)
    pen.oval(0.36, -0.34, 0.36, 0.16, LEAF, turn=-0.5)
    for k in range(6):
        a = k * math.pi / 3 + math.pi / 6
        pen.oval(0.46 * math.cos(a), -1.42 + 0.46 * math.sin(a), 0.36, 0.27, colour, turn=a)
    pen.oval(0, -1.42, 0.28, 0.28, WOOD if colour[2] < 130 and colour[0] > 200 else GOLD)


def robot(pen: Pen, colour: Colour) -> None:
    """A head with a visor and an aerial on a body with arms and legs."""
    for side in (-1, 1):
        pen.box(0.36 * side - 0.15, -0.4, 0.36 * side + 0.15, 0, SLATE)
        pen.pill(0.78 * side - 0.15, -1.08, 0.78 * side + 0.15, -0.4, 0.13, STEEL)
    pen.pill(-0.64, -1.16, 0.64, -0.28, 0.12, colour)
    pen.oval(0, -0.72, 0.2, 0.2, GOLD, plain=True)
    pen.box(-0.04, -2.3, 0.04, -1.9, SLATE, plain=True)
    pen.oval(0, -2.26, 0.13, 0.13, GOLD, plain=True)
    pen.pill(-0.7, -2.0, 0.7, -1.16, 0.16, colour)
    pen.pill(-0.54, -1.82, 0.54, -1.38, 0.14, INK, plain=True)
    for x in (-0.27, 0.27):
        pen.oval(x, -1.6, 0.14, 0.14, GLASS, plain=True)
    if pen.is_detailed:
        pen.ribbon([(-0.22, -1.3), (-0.12, -1.25), (0.12, -1.25), (0.22, -1.3)], 0.06, INK, plain=True)


def umbrella(pen: Pen, colour: Colour) -> None:
    """A dome with ribs on a crook."""
    pen.box(-0.06, -1.3, 0.06, -0.2, WOOD)
    hook = [(0.2 - 0.2 * math.cos(a), -0.2 + 0.2 * math.sin(a)) for a in (k * math.pi / 6 for k in range(7))]
    pen.ribbon(hook, 0.13, WOOD)
    arc = [(1.12 * math.cos(a), -1.02 - 1.05 * math.sin(a)) for a in (k * math.pi / 16 for k in range(17))]
    scallops = [(x, -1.02 - 0.15 * (k % 2)) for k, x in enumerate(-1.12 + 0.28 * j for j in range(9))]
    pen.shape([*arc, *scallops], colour)
    rib = darker(colour, 0.25)
    pen.shape([(-0.36, -1.12), (-0.22, -1.8), (0, -2.07), (-0.48, -1.86), (-0.78, -1.1)], rib, plain=True)
    pen.shape([(0.36, -1.12), (0.22, -1.8), (0, -2.07), (0.48, -1.86), (0.78, -1.1)], rib, plain=True)


def balloon(pen: Pen, colour: Colour) -> None:
    """A hot-air balloon with a stripe and its basket."""
    for side in (-1, 1):
        pen.ribbon([(0.5 * side, -0.9), (0.24 * side, -0.36)], 0.07, WOOD, plain=True)
    outline = [(0.86 * math.cos(a), -1.45 - 0.86 * math.sin(a)) for a in (k * math.pi / 12 for k in range(-2, 15))]
    pen.shape([(0.26, -0.62), *outline, (-0.26, -0.62)], colour)
    stripe = WHITE if min(colour) < 190 else STEEL
    pen.shape([(0.1, -0.64), (0.28, -1.45), (0.14, -2.24), (-0.14, -2.24), (-0.28, -1.45), (-0.1, -0.64)], stripe, True)
    pen.pill(-0.28, -0.4, 0.28, 0, 0.08, WOOD)


THINGS = {thing.__name__: thing for thing in (house, car, boat, rocket, mushroom, flower, robot, umbrella, balloon)}
"""Everything except the creature, by its word."""
