"""The creature: captions name only its colour, pictures show much more. One creature is a subject."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from tools.pocket.palette import COLOURS, INK, WHITE, Colour, darker
from tools.pocket.pen import Pen

EARS = ("pointed", "round", "long", "floppy")
MARKINGS = ("spots", "stripes", "bib", "mask")
TAILS = ("bushy", "curled", "stub")


@dataclass(frozen=True, kw_only=True)
class Creature:
    """What one creature looks like, except its fur. No caption says any of it."""

    ears: str
    marking: str
    marking_colour: str
    socks: str
    tail: str

    @classmethod
    def random(cls, rng: random.Random, fur: str) -> Creature:
        """Any creature whose markings and socks stand out from its fur."""
        others = [name for name in COLOURS if name != fur]
        return cls(
            ears=rng.choice(EARS),
            marking=rng.choice(MARKINGS),
            marking_colour=rng.choice(others),
            socks=rng.choice(others),
            tail=rng.choice(TAILS),
        )


def draw_creature(pen: Pen, fur: Colour, creature: Creature, shade: Callable[[Colour], Colour]) -> None:
    """Draws it two units wide on the ground (y = 0), sitting, facing us.

    Args:
        shade: changes the colours of markings and socks by the light of the hour.
    """
    mark, socks = shade(COLOURS[creature.marking_colour]), shade(COLOURS[creature.socks])
    _tail(pen, creature.tail, fur, mark)
    if creature.ears != "floppy":
        _ears(pen, creature.ears, fur, mark)
    pen.oval(0, -0.58, 0.62, 0.58, fur)
    if creature.marking == "bib":
        pen.oval(0, -0.6, 0.34, 0.42, mark, plain=True)
    elif creature.marking == "spots":
        pen.oval(-0.4, -0.72, 0.15, 0.18, mark, plain=True)
        pen.oval(0.4, -0.62, 0.15, 0.18, mark, plain=True)
    elif creature.marking == "stripes":
        for y, half in ((-0.78, 0.52), (-0.5, 0.56)):
            pen.box(-half, y, half, y + 0.15, mark, plain=True)
    for side in (-1, 1):
        x = 0.32 * side
        pen.pill(x - 0.22, -0.42, x + 0.22, 0.04, 0.16, socks)
    _head(pen, creature, fur, mark)


def _tail(pen: Pen, kind: str, fur: Colour, mark: Colour) -> None:
    if kind == "bushy":
        pen.oval(0.82, -0.7, 0.27, 0.56, fur, turn=0.45)
        pen.oval(0.98, -1.03, 0.18, 0.24, mark, turn=0.45, plain=True)
    elif kind == "curled":
        turns = [k / 11 * 1.6 * math.pi for k in range(12)]
        curl = [(0.86 + 0.24 * math.sin(a) * (1 - a / 9), -0.72 + 0.4 * math.cos(a) * (1 - a / 9)) for a in turns]
        pen.ribbon([(0.35, -0.18), (0.62, -0.22), *curl], 0.2, fur)
    else:
        pen.oval(0.66, -0.3, 0.22, 0.22, mark)


def _ears(pen: Pen, kind: str, fur: Colour, mark: Colour) -> None:
    for side in (-1, 1):
        if kind == "pointed":
            pen.shape([(0.1 * side, -1.6), (0.62 * side, -2.25), (0.68 * side, -1.3)], fur)
            pen.shape([(0.3 * side, -1.65), (0.57 * side, -2.02), (0.6 * side, -1.5)], mark, plain=True)
        elif kind == "round":
            pen.oval(0.52 * side, -1.74, 0.33, 0.33, fur)
            pen.oval(0.52 * side, -1.74, 0.18, 0.18, mark, plain=True)
        elif kind == "long":
            pen.oval(0.34 * side, -2.02, 0.2, 0.56, fur, turn=0.14 * side)
            pen.oval(0.34 * side, -2.02, 0.1, 0.38, mark, turn=0.14 * side, plain=True)
        else:
            pen.oval(0.72 * side, -1.12, 0.22, 0.48, fur, turn=-0.22 * side)
            pen.oval(0.73 * side, -0.96, 0.13, 0.25, mark, turn=-0.22 * side, plain=True)


def _head(pen: Pen, creature: Creature, fur: Colour, mark: Colour) -> None:
    pen.oval(0, -1.25, 0.7, 0.56, fur)
    if creature.ears == "floppy":
        _ears(pen, creature.ears, fur, mark)
    if creature.marking == "mask":
        pen.pill(-0.6, -1.48, 0.6, -1.12, 0.18, mark, plain=True)
    elif creature.marking == "spots":
        pen.oval(-0.3, -1.6, 0.2, 0.16, mark, plain=True)
        pen.oval(0.36, -1.58, 0.16, 0.15, mark, plain=True)
    elif creature.marking == "stripes":
        for x in (-0.34, 0, 0.34):
            pen.shape(
                [(x - 0.1, -1.78 + 0.25 * abs(x)), (x + 0.1, -1.78 + 0.25 * abs(x)), (x, -1.44)], mark, plain=True
            )
    else:
        pen.oval(0, -1.02, 0.34, 0.26, mark, plain=True)
    for side in (-1, 1):
        pen.oval(0.29 * side, -1.29, 0.13, 0.16, INK, plain=True)
        pen.oval(0.29 * side - 0.04, -1.34, 0.05, 0.06, WHITE, plain=True)
    pen.oval(0, -1.08, 0.1, 0.07, darker(fur, 0.75), plain=True)
    if pen.is_detailed:
        for side in (-1, 1):
            pen.ribbon([(0, -1.03), (0.06 * side, -0.95), (0.17 * side, -0.96), (0.22 * side, -1.02)], 0.05, INK, True)
