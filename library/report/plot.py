"""The plot of a run, `training.png`, drawn from its log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from library.files.atomic import written

SMOOTHING = 0.9
"""Weight of the past in the smooth line."""

PANELS = (
    (
        "losses (before their weights)",
        (
            *("concept", "pure", "anchor", "replay", "surroundings", "word", "word_replayed", "prior"),
            *("extractor", "extractor_anchor"),
        ),
        True,
    ),
    ("lambda* and cos(R_s, R_t)", ("lambda_star", "cosine", "lambda_negative"), False),
    ("length of R, as a share of the velocity's", ("r_student", "r_target"), False),
)
"""Title, what is drawn, and whether the scale is logarithmic."""


def _smooth(values: list[float]) -> list[float]:
    smooth, mean = [], values[0]
    for value in values:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        smooth.append(mean)
    return smooth


def plot_log(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws the stages of a log next to each other; steps as thin lines, their running mean as thick ones."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stages = list(dict.fromkeys(row["stage"] for row in rows))
    if not stages:
        return
    figure = Figure(figsize=(6 * len(stages), 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(PANELS), len(stages), squeeze=False)
    for column, stage in enumerate(stages):
        of_stage = [row for row in rows if row["stage"] == stage]
        for panel, (title, names, logarithmic) in zip(axes[:, column], PANELS, strict=True):
            for name in names:
                points = [(row["step"], row[name]) for row in of_stage if name in row]
                if points:
                    steps, values = zip(*points, strict=True)
                    (line,) = panel.plot(steps, _smooth(list(values)), linewidth=1.8, label=name)
                    panel.plot(steps, values, linewidth=0.5, alpha=0.35, color=line.get_color())
            if panel.lines:
                panel.legend(fontsize=8)
                panel.set_title(f"{stage}: {title}", fontsize=10)
                panel.set_xlabel("step", fontsize=9)
                panel.grid(alpha=0.25)
                if logarithmic:
                    panel.set_yscale("log")
            else:
                panel.set_visible(False)
    with written(path) as temporary:
        figure.savefig(temporary, dpi=110)
