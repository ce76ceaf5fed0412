"""The files of a comparison: one table, one plot, one grid of pictures, and every number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from library.evaluation.drift import Probe
from library.evaluation.measures.statistics import Estimate
from library.evaluation.scoring import Score
from library.files.atomic import write_text, written
from library.report.sheet import SheetRow, save_sheet

SAYS_RIGHT_CHANGE = (
    "Right change is measured on the reference images (see docs/explanation/report-card.md). It only covers these "
    "images, and a method that also learned their background scores as well. No encoder has looked at generated "
    "images; use --fidelity for that."
)
SAYS_FIDELITY = (
    "Fidelity: likeness of images with [V] to the references, measured with {encoder}; 0 is that of the pretrained "
    "model, 1 that of the references among themselves. It compares whole images, so a learned background counts too. "
    "Kept: 1 if images without [V] equal the pretrained model's, 0 if they differ as much as with another seed."
)
SAYS_BUDGET = {
    "steps": "steps each, both stages together; passes and seconds are their cost",
    "passes": "passes each (one per batch; one with a gradient counts as three), context vectors included",
    "seconds": "seconds each, estimated from a few timed steps, context vectors included; the seconds shown are "
    "measured",
}


@dataclass(frozen=True)
class Result:
    """A method at its best rate and length.

    Args:
        chosen: "rate" (times the config's), "file", "length" and what that has cost: "steps", "passes", "seconds".
        of_strength: on the prompts to judge by, by strength of the LoRA; 1 is among them.
        of_length: on the prompts to choose by, at that rate, shortest training first.
        tried: what all that it was chosen from came to, by the rule.
        probes, before, after: the prompts to judge by and their pictures.
    """

    method: str
    chosen: dict[str, Any]
    of_strength: dict[float, Score]
    of_length: list[Score]
    tried: dict[str, float]
    probes: list[Probe]
    before: list[Tensor]
    after: list[Tensor]


def write_comparison(folder: Path, results: Sequence[Result], about: dict[str, Any]) -> str:
    """Writes compare.json, compare.md, compare.png and grid.png; returns the table and where all of it is.

    Args:
        about: "budget" and "budget_in", "rule", and "encoder", the label of the one that looked, if one did.
    """
    text, encoder = table(results), about["encoder"]
    says = SAYS_FIDELITY.format(encoder=encoder) if encoder else SAYS_RIGHT_CHANGE
    chosen = (
        f"{about['budget']:g} {SAYS_BUDGET[about['budget_in']]}. Learning rate and length were chosen on other "
        f"prompts, by {about['rule']}."
    )
    write_text(folder / "compare.md", f"# Comparison\n\n{chosen}\n\n{text}\n\n{says}\n\n![plot](compare.png)\n")
    found = [
        {
            "method": one.method,
            **one.chosen,
            "tried": one.tried,
            "by_strength": {str(strength): score.as_dict() for strength, score in one.of_strength.items()},
            "by_length": [score.as_dict() for score in one.of_length],
        }
        for one in results
    ]
    write_text(folder / "compare.json", json.dumps({**about, "methods": found}, indent=1))
    plot(results, folder / "compare.png", encoder is not None)
    grid(results, folder / "grid.png")
    return f"{text}\n\n{chosen}\n{says}\nOpen {folder / 'compare.png'} and {folder / 'grid.png'}."


def table(results: Sequence[Result]) -> str:
    """One line per method, at strength 1, on the prompts to judge by."""
    with_encoder = results[0].of_strength[1.0].fidelity is not None
    columns = ["method", "rate", "steps", "passes", "seconds"]
    columns += ["fidelity", "kept"] if with_encoder else []
    columns += ["right change", "class drift", "unrelated drift", "outside", "leak"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for one in results:
        score, chosen = one.of_strength[1.0], one.chosen
        card = score.card
        cells = [one.method, f"{chosen['rate']:g}"]
        cells += [f"{chosen[name]:.0f}" for name in ("steps", "passes", "seconds")]
        cells += [_cell(score.fidelity), f"{score.kept:.3f}"] if with_encoder else []
        drift = [_cell(card.drift.get(kind)) for kind in ("class", "unrelated")]
        cells += [f"{card.reach:.3f}", *drift, _cell(card.outside), "" if card.leak is None else f"{card.leak:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(one: Estimate | None) -> str:
    return "" if one is None else f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


def plot(results: Sequence[Result], path: Path, with_encoder: bool) -> None:
    """Fidelity against drift, along strength and along training: up and to the right is better."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    curves = {
        "by strength of the LoRA, on the test prompts": lambda one: list(one.of_strength.values()),
        "by length of training, on the prompts used to choose": lambda one: one.of_length,
    }
    for panel, (title, scores_of) in zip(figure.subplots(1, 2), curves.items(), strict=True):
        for one in results:
            some = scores_of(one)
            drift = [score.card.kept for score in some]
            panel.plot([score.learned for score in some], drift, marker="o", markersize=3, label=one.method)
        panel.invert_yaxis()
        panel.set_xlabel("fidelity" if with_encoder else "right change on the reference images")
        panel.set_ylabel("drift without [V] (up is better)")
        panel.set_title(title, fontsize=10)
        panel.grid(alpha=0.25)
        panel.legend(fontsize=8)
    with written(path) as temporary:
        figure.savefig(temporary, dpi=100)


def grid(results: Sequence[Result], path: Path) -> None:
    """The pretrained model and every method on the same prompts and seeds."""
    probes, rows, seen = results[0].probes, [], set()
    for row, probe in enumerate(probes):
        if (probe.kind, probe.shown) not in seen:
            seen.add((probe.kind, probe.shown))
            pictures = [results[0].before[row], *(one.after[row] for one in results)]
            rows.append(SheetRow(probe.kind, probe.shown, pictures))
    columns = ["pretrained", *(one.method for one in results)]
    save_sheet(path, "Each method at its own best, the same seeds", columns, rows)
