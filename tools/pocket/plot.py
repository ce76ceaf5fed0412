"""Training curves."""

from __future__ import annotations

from pathlib import Path

from library.files.atomic import written
from tools.pocket.stage import progress_of


def plot_curves(folder: Path, stages: tuple[str, ...], path: Path) -> None:
    """Draws the loss over the minutes, for each stage with a state in the folder."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    known = [name for name in stages if (folder / f"{name}.safetensors").exists()]
    figure = Figure(figsize=(4 * len(known), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, name in zip(figure.subplots(1, len(known), squeeze=False)[0], known, strict=True):
        progress = progress_of(folder, name)
        _, seconds, losses = zip(*progress.curve, strict=True)
        panel.plot([s / 60 for s in seconds], losses, marker=".")
        panel.set_title(f"{name}: {progress.step} steps", fontsize=10)
        panel.set_xlabel("minutes", fontsize=9)
        panel.set_ylabel("loss", fontsize=9)
        panel.set_yscale("log")
        panel.grid(alpha=0.25, which="both")
    with written(path) as temporary:
        figure.savefig(temporary, dpi=110)
