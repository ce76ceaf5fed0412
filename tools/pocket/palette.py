"""Colours: red, green, blue in 0..255."""

from __future__ import annotations

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (220, 48, 50),
    "orange": (245, 138, 36),
    "yellow": (250, 214, 58),
    "green": (70, 172, 78),
    "blue": (52, 108, 222),
    "purple": (138, 72, 190),
    "pink": (252, 150, 198),
    "white": (244, 244, 248),
}
"""Colours that a caption can name."""

INK: Colour = (38, 30, 46)
WHITE: Colour = (255, 255, 255)
CREAM: Colour = (255, 241, 214)
WOOD: Colour = (140, 92, 58)
STEEL: Colour = (150, 158, 172)
SLATE: Colour = (84, 74, 96)
GLASS: Colour = (176, 222, 246)
GOLD: Colour = (255, 206, 84)
MOONLIGHT: Colour = (40, 48, 112)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b in a: 0 is a, 1 is b."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def darker(colour: Colour, share: float) -> Colour:
    """Towards ink, which is kinder than black."""
    return mix(colour, INK, share)


def lighter(colour: Colour, share: float) -> Colour:
    """Towards white."""
    return mix(colour, WHITE, share)


def by_night(colour: Colour, share: float) -> Colour:
    """The colour in moonlight: 0 is as by day, 1 is only blue darkness."""
    return mix(mix(colour, (0, 0, 0), 0.35 * share), MOONLIGHT, 0.7 * share)
