"""What a comparison leaves: one table, one plot, one grid of pictures, and every number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from library.atomic import write_text, written
from library.evaluation.card import Card
from library.evaluation.drift import Probe
from library.measures.statistics import Estimate
from library.report.sheet import SheetRow, save_sheet

SAYS = (
    "Right change is on the reference pictures (see docs/audit.md): it knows these pictures alone, and "
    "whoever learned their background as well has it, too. No encoder has looked at what is drawn; the grid is for you."
)


@dataclass(frozen=True)
class Result:
    """A method at its best rate and length.

    Args:
        chosen: its learning rate (times the config's), file, and seconds of training.
        of_strength: on the prompts to judge by, by strength of the LoRA; 1 is among them.
        of_length: on the prompts to choose by, at that rate, shortest training first.
        tried: names of all that it was chosen from.
        probes, before, after: the prompts to judge by and their pictures.
    """

    method: str
    chosen: dict[str, Any]
    of_strength: dict[float, Card]
    of_length: list[Card]
    tried: list[str]
    probes: list[Probe]
    before: list[Tensor]
    after: list[Tensor]


def write_comparison(folder: Path, results: Sequence[Result], about: dict[str, Any]) -> str:
    """Writes compare.json, compare.md, compare.png and grid.png; returns the table and where all of it is."""
    text = table(results)
    chosen = (
        f"{about['budget_steps']} steps each; rate and length chosen on other prompts than these, by {about['rule']}."
    )
    write_text(folder / "compare.md", f"# Comparison\n\n{chosen}\n\n{text}\n\n{SAYS}\n\n![plot](compare.png)\n")
    found = [
        {
            "method": one.method,
            **one.chosen,
            "tried": one.tried,
            "by_strength": {str(strength): card.as_dict() for strength, card in one.of_strength.items()},
            "by_length": [card.as_dict() for card in one.of_length],
        }
        for one in results
    ]
    write_text(folder / "compare.json", json.dumps({**about, "methods": found}, indent=1))
    plot(results, folder / "compare.png")
    grid(results, folder / "grid.png")
    return f"{text}\n\n{chosen}\n{SAYS}\nLook at {folder / 'compare.png'} and {folder / 'grid.png'}."


def table(results: Sequence[Result]) -> str:
    """One line a method, at strength 1, on the prompts to judge by."""
    lines = ["| method | rate | length | right change | class drift | unrelated drift | outside | leak | training |"]
    lines.append("|---" * 9 + "|")
    for one in results:
        card = one.of_strength[1.0]
        drift = [_cell(card.drift.get(kind)) for kind in ("class", "unrelated")]
        leak = "" if card.leak is None else f"{card.leak:.2f}"
        length = one.chosen["file"].partition("-step")[2].partition(".")[0].lstrip("0") or "all"
        cells = [one.method, f"{one.chosen['rate']:g}", length, f"{card.reach:.3f}", *drift, _cell(card.outside), leak]
        lines.append(f"| {' | '.join(cells)} | {one.chosen['seconds']:.0f} s |")
    return "\n".join(lines)


def _cell(one: Estimate | None) -> str:
    return "" if one is None else f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


def plot(results: Sequence[Result], path: Path) -> None:
    """Fidelity against drift, along strength and along training: up and to the right is better."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    curves = {
        "by strength of the LoRA, on the prompts to judge by": lambda one: list(one.of_strength.values()),
        "by length of training, on the prompts to choose by": lambda one: one.of_length,
    }
    for panel, (title, cards_of) in zip(figure.subplots(1, 2), curves.items(), strict=True):
        for one in results:
            cards = cards_of(one)
            panel.plot([c.reach for c in cards], [c.kept for c in cards], marker="o", markersize=3, label=one.method)
        panel.invert_yaxis()
        panel.set_xlabel("right change on the reference pictures")
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
