"""Curves as inline SVG; the page's script shows the values under the pointer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from library.report.page import render

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 28
"""Margins around the curves, in SVG units."""
MOST_POINTS = 240
"""Most points of a curve; more are averaged in groups."""
SMOOTHING_SHARE = 0.04
"""Share of a curve over which its smooth line averages."""
COLOURS = 8
"""Number of colours in the style sheet, `--series-1` and so on."""


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Args:
        about: what it means, in a few words.
        points: (step, value) each, finite.
    """

    name: str
    about: str
    points: Sequence[tuple[float, float]]


def curves_of(rows: Sequence[dict[str, Any]], names: dict[str, str]) -> list[Curve]:
    """A curve for each of these values that a log's rows have.

    Args:
        names: {value: what it means}.
    """
    found = []
    for name, about in names.items():
        points = [(row["step"], float(row[name])) for row in rows if name in row and math.isfinite(row[name])]
        if points:
            found.append(Curve(name, about, points))
    return found


def chart(title: str, curves: Sequence[Curve], logarithmic: bool = False) -> Markup:
    """A chart with its legend, or nothing if there is no curve. A logarithmic chart leaves out values of 0 and
    below."""
    shown = []
    for curve in curves:
        points = [(x, y) for x, y in curve.points if y > 0 or not logarithmic]
        if points:
            shown.append((curve, _thinned(points)))
    if not shown:
        return Markup()
    axis = _Axis([y for _, points in shown for _, y in points], logarithmic)
    first, last = min(points[0][0] for _, points in shown), max(points[-1][0] for _, points in shown)
    span = max(last - first, 1)

    def across(x: float) -> float:
        return LEFT + (x - first) / span * (WIDTH - LEFT - RIGHT)

    lines = []
    for number, (curve, points) in enumerate(shown):
        thin = [(round(across(x), 1), round(axis.place(y), 1)) for x, y in points]
        smooth = [(round(across(x), 1), round(axis.place(y), 1)) for x, y in _smooth(points)]
        lines.append({"curve": curve, "number": number % COLOURS + 1, "thin": _path(thin), "smooth": _path(smooth)})
    hover = [
        {"name": curve.name, "points": [[x, float(f"{y:.4g}"), round(axis.place(y), 1)] for x, y in points]}
        for curve, points in shown
    ]
    steps = [first + round(span * part / 4) for part in range(5)] if span >= 4 else sorted({first, last})
    return render(
        "chart.html",
        title=title,
        lines=lines,
        ticks=[(round(axis.place(value), 1), f"{value:.3g}") for value in axis.ticks()],
        steps=[(round(across(step), 1), f"{step:g}") for step in steps],
        box={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "bottom": HEIGHT - BOTTOM},
        # Inside a <script> element nothing but "<" could end it.
        hover=Markup(json.dumps({"first": first, "span": span, "curves": hover}).replace("<", "\\u003c")),
        says=_in_words(shown),
    )


class _Axis:
    """The upward axis of a chart."""

    def __init__(self, values: Sequence[float], logarithmic: bool) -> None:
        self.logarithmic = logarithmic
        scaled = [self._scaled(value) for value in values]
        low, high = min(scaled), max(scaled)
        room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        self.low = low - room
        self.high = high + room

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def place(self, value: float) -> float:
        share = (self._scaled(value) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    def ticks(self) -> list[float]:
        """Round values, about five."""
        if self.logarithmic:
            factors = (1, 2, 5) if self.high - self.low < 2 else (1,)
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            ticks = [factor * 10.0**decade for decade in decades for factor in factors]
            ticks = [tick for tick in ticks if self.low <= math.log10(tick) <= self.high]
            if ticks:
                return ticks[:: math.ceil(len(ticks) / 6)]
            return [10 ** ((self.low + self.high) / 2)]
        rough = (self.high - self.low) / 4
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= rough)
        begin = math.ceil(self.low / step)
        return [round(number * step, 12) for number in range(begin, math.floor(self.high / step) + 1)]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points, each the mean of a group, at the group's last step."""
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[begin : begin + size] for begin in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A mean over each point's neighbourhood."""
    reach = int(len(points) * SMOOTHING_SHARE)
    means = []
    for index, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, index - reach) : index + reach + 1]]
        means.append((x, sum(near) / len(near)))
    return means


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Points as an SVG path."""
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points)


def _in_words(shown: Sequence[tuple[Curve, list[tuple[float, float]]]]) -> str:
    """A text alternative to the chart."""
    return "; ".join(f"{curve.name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for curve, points in shown)
