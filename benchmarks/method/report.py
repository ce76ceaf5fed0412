"""The bench's results as a person reads them: tables, a plot and a sheet of pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from benchmarks.method.arms import ABLATIONS, ARMS, BESIDE
from benchmarks.method.compare import Comparison, Row
from benchmarks.method.concepts import CONCEPTS
from library.evaluation.measures.statistics import Estimate
from library.files.atomic import write_text, written
from library.report.sheet import SheetRow, save_sheet

COLUMNS = {
    "follow": ("prompt following, change", 3, +1),
    "seg_cons": ("Seg-Cons", 1, +1),
    "outside": ("change outside the subject", 3, -1),
    "trap_asked": ("trap, where the prompt asks for another", 3, -1),
    "trap_unasked": ("trap", 3, -1),
    "contamination": ("contamination of the class", 3, -1),
    "pixels_class": ("change of class images", 3, -1),
    "pixels_unrelated": ("change of unrelated images", 3, -1),
    "accuracy": ("accuracy without the concept, change", 3, +1),
    "drift": ("velocity drift", 3, -1),
}
"""Figure, its name in the table, its decimals, and which way is good."""
FIDELITY = ("fidelity", 2, +1)
"""The same of finished students."""
SHORT = ("follow", "seg_cons", "trap_unasked", "contamination", "pixels_unrelated", "drift")
"""The figures of the short table."""
PROMISES = {
    "seg_cons": "layout of the image is kept (Seg-Cons, higher is better)",
    "trap_unasked": "background of the training images leaks in (lower is better)",
    "contamination": "the class changes without the trigger (lower is better)",
    "drift": "predictions drift without the trigger (lower is better)",
}
"""The figures of the README's table, as somebody who does not know the bench reads them."""
STEPS = "steps until the subject is learned (lower is better)"
PROMISING = {"plain LoRA": "plain LoRA", "lean": "`lean` (default)", "pure": "`pure`"}
DIFFERING = ("seg_cons", "trap_unasked", "contamination", "drift")
"""The figures of the docs' tables of differences and of parts."""
ENDS = {"fidelity": FIDELITY, **{key: COLUMNS[key] for key in ("seg_cons", "trap_unasked", "drift")}}
"""The figures of finished students in the table of parts."""
PLOTTED = ("plain LoRA", "prior preservation", "DOP", "DCO", "EWC", "DreamBooth", "paper", "release", "lean", "pure")
ON_SHEETS = ("plain LoRA", "DOP", "EWC", "paper", "release", "lean", "pure")
"""The methods that are drawn: more would hide each other."""
SHOWN_PROBES = {"concept": 3, "class": 2, "unrelated": 1}


def table(rows: Sequence[Row], shown: Sequence[str] = tuple(COLUMNS)) -> str:
    """Methods at one fidelity.

    Args:
        shown: figures.
    """
    columns = {key: COLUMNS[key] for key in shown}
    names = [name for name, _, _ in columns.values()]
    lines = [f"| method | trials that get there | steps | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    for row in rows:
        steps = "" if np.isnan(row.steps) else f"{row.steps:.0f}"
        cells = [cell(row.figures[key], digits) for key, (_, digits, _) in columns.items()]
        lines.append(f"| {row.arm} | {row.reached} of {row.trials} | {steps} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference_table(comparison: Comparison, arm: str, others: Sequence[str], level: float) -> str:
    """`arm` minus each of the others, over the trials in which both reach the fidelity."""
    names = [name for name, _, _ in COLUMNS.values()]
    lines = [f"| {arm}, minus | trials | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for other in others:
        count, figures = comparison.differences(arm, other, level)
        cells = [difference_cell(figures[key], digits, good) for key, (_, digits, good) in COLUMNS.items()]
        lines.append(f"| {other} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def strength_table(comparison: Comparison, arms: Sequence[str]) -> str:
    """Finished students by the strength that their LoRA is given; empty if no trial has tried any."""
    names = {"fidelity": 2, **{key: digits for key, (_, digits, _) in COLUMNS.items()}}
    titles = ["fidelity", *(name for name, _, _ in COLUMNS.values())]
    lines = []
    for arm in arms:
        for strength, means in comparison.strengths(arm).items():
            cells = [f"{means[name]:.{digits}f}" for name, digits in names.items()]
            lines.append(f"| {arm} | {strength:g} | {' | '.join(cells)} |")
    head = [f"| method | strength | {' | '.join(titles)} |", "|---" * (len(titles) + 2) + "|"]
    return "\n".join([*head, *lines]) if lines else ""


def cell(figure: Estimate, digits: int) -> str:
    """A figure with its interval; nothing where there is none."""
    if np.isnan(figure.value):
        return ""
    return f"{figure.value:.{digits}f} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"


def difference_cell(figure: Estimate, digits: int, good: int) -> str:
    """Better in bold, worse in italics, where the interval leaves out 0."""
    text = cell(figure, digits)
    if not text or not figure.leaves_out_zero:
        return text
    return f"**{text}**" if figure.value * good > 0 else f"*{text}*"


def methods_result(comparison: Comparison, level: float, **_: str) -> dict[str, Any]:
    """Every method at one fidelity without ablations and controls, in the form of `benchmarks.record`."""
    shown = {key: COLUMNS[key] for key in SHORT}
    return _methods(
        comparison, comparison.rows(level), f"Methods at fidelity {level:g}", "trials that get there", shown
    )


def finished_result(comparison: Comparison, level: float, **_: str) -> dict[str, Any]:
    """Every method's finished students without ablations; `level` says how many of them got there."""
    shown = {"fidelity": FIDELITY, **{key: COLUMNS[key] for key in SHORT}}
    reached = f"end at {level:g} or more"
    return _methods(comparison, comparison.finished(level), "Methods after their last step", reached, shown)


def _methods(
    comparison: Comparison, rows: Sequence[Row], title: str, reached: str, shown: dict[str, tuple[str, int, int]]
) -> dict[str, Any]:
    """The methods' rows without ablations, with the figures shown, given as `COLUMNS` are."""
    by_arm, found = {row.arm: row for row in rows}, []
    for arm in [arm for arm in present(comparison) if arm not in ABLATIONS]:
        row = by_arm[arm]
        steps = None if np.isnan(row.steps) else row.steps
        figures = {key: _interval(row.figures[key]) for key in shown}
        found.append({"arm": arm, "reached": f"{row.reached} of {row.trials}", "steps": steps, **figures})
    return _in_columns(title, found, reached, shown)


def _in_columns(
    title: str, rows: list[dict[str, Any]], reached: str, shown: dict[str, tuple[str, int, int]]
) -> dict[str, Any]:
    """Rows of methods in the form of `benchmarks.record`, with the figures shown, given as `COLUMNS` are."""
    names = {key: name for key, (name, _, _) in shown.items()}
    formats = {"steps": ".0f", **{key: f".{digits}f" for key, (_, digits, _) in shown.items()}}
    columns = {"arm": "method", "reached": reached, "steps": "steps", **names}
    return {"title": title, "rows": rows, "columns": columns, "formats": formats}


def promise_result(comparison: Comparison, level: float, **_: str) -> dict[str, Any]:
    """The README's table: what three methods keep at one fidelity, a row for each promise, the best in bold."""
    rows = {row.arm: row for row in comparison.rows(level) if row.arm in PROMISING}
    found = []
    for key, promise in {**PROMISES, "steps": STEPS}.items():
        values = {arm: row.steps if key == "steps" else row.figures[key].value for arm, row in rows.items()}
        _, digits, good = COLUMNS.get(key, ("", 0, -1))
        best = max(values, key=lambda arm: good * values[arm])
        shown = {arm: f"{value:.{digits}f}" for arm, value in values.items()}
        found.append({"promise": promise, **shown, best: f"**{shown[best]}**"})
    columns = {"promise": "at equal fidelity, by the trigger word alone", **PROMISING}
    return {"title": f"What methods keep at fidelity {level:g}", "rows": found, "columns": columns, "formats": {}}


def differences_result(comparison: Comparison, level: float, against: str) -> dict[str, Any]:
    """What a method differs by from each of the others in the trials in which both get to the fidelity."""
    found = []
    for arm in [arm for arm in present(comparison) if arm not in (against, *ABLATIONS)]:
        count, figures = comparison.differences(against, arm, level)
        cells = {key: difference_cell(figures[key], COLUMNS[key][1], COLUMNS[key][2]) for key in DIFFERING}
        found += [{"arm": arm, "trials": count, **cells}] if count else []
    columns = {"arm": f"`{against}`, minus", "trials": "trials", **{key: COLUMNS[key][0] for key in DIFFERING}}
    title = f"{against} minus others at fidelity {level:g}; intervals without 0: better in bold, worse in italics"
    return {"title": title, "rows": found, "columns": columns, "formats": {}}


def parts_result(comparison: Comparison, level: float, against: str) -> dict[str, Any]:
    """What the parts of a method do: itself and its ablations at one fidelity, and what they end with; means alone."""
    rows, ends = ({row.arm: row for row in some} for some in (comparison.rows(level), comparison.finished(level)))
    found = []
    for arm in [arm for arm in present(comparison) if arm == against or (arm in ABLATIONS and arm.startswith(against))]:
        values = {"steps": rows[arm].steps, **{key: rows[arm].figures[key].value for key in DIFFERING}}
        values |= {f"end_{key}": ends[arm].figures[key].value for key in ENDS}
        known = {key: None if np.isnan(value) else value for key, value in values.items()}
        found.append({"arm": arm, "reached": f"{rows[arm].reached} of {rows[arm].trials}", **known})
    shown = {key: COLUMNS[key] for key in DIFFERING}
    shown |= {f"end_{key}": (f"{name}, at the end", digits, good) for key, (name, digits, good) in ENDS.items()}
    title = f"The parts of {against}, at fidelity {level:g} and after the last step"
    return _in_columns(title, found, "trials that get there", shown)


RESULTS = {
    "methods": methods_result,
    "finished": finished_result,
    "promise": promise_result,
    "differences": differences_result,
    "parts": parts_result,
}
"""The tables that the docs show, by what --table calls them."""


def present(comparison: Comparison) -> list[str]:
    """The methods that have trials, in the order of the arms, each by its word and then in its other ways."""
    return [name for arm in ARMS for name in (arm, *map(arm.__add__, BESIDE.values())) if name in comparison.arms]


def _interval(figure: Estimate) -> list[float] | None:
    return None if np.isnan(figure.value) else [figure.value, figure.low, figure.high]


def plot(comparison: Comparison, arms: Sequence[str], path: Path) -> None:
    """Fidelity against preservation along training: up and to the right is better."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Plot

    panels = [("drift", "velocity drift without the concept"), ("contamination", "contamination of the class")]
    panels += [("trap_unasked", "trap"), ("seg_cons", "Seg-Cons")]
    figure = Plot(figsize=(14, 10), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, (name, title) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for arm in arms:
            _, curve = comparison.curve(arm)
            panel.plot(curve["fidelity"], curve[name], marker="o", markersize=3, linewidth=1.4, label=arm)
        if name != "seg_cons":
            panel.invert_yaxis()
        panel.set_xlabel("fidelity (0: pretrained, 1: drawn)")
        panel.set_title(f"{title} (up is better)", fontsize=10)
        panel.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=8)
    with written(path) as temporary:
        figure.savefig(temporary, dpi=100)


def sheet(work: Path, concept: str, seed: int, arms: Sequence[str], path: Path) -> None:
    """The same prompts and seeds from every method, beside the pretrained model's, of trials that kept them."""
    from benchmarks.method.trial import Trial

    trials = [Trial("pretrained", concept, 0), *(Trial(arm, concept, seed) for arm in arms)]
    files = {trial.arm: trial.file(work).with_suffix(".safetensors") for trial in trials}
    pictures = {arm: load_file(file)["pictures"] for arm, file in files.items() if file.exists()}
    if not pictures:
        return
    probes, rows = CONCEPTS[concept]().probes(), []
    for sort, count in SHOWN_PROBES.items():
        for index in [k for k, probe in enumerate(probes) if probe.sort == sort][:count]:
            shown = [some[index].float() / 127.5 - 1 for some in pictures.values()]
            rows.append(SheetRow(sort, probes[index].text, shown))
    save_sheet(path, f"{concept}, training seed {seed}, at the end of training", list(pictures), rows)


def write(comparison: Comparison, work: Path, out: Path, levels: Sequence[float], against: str, seed: int) -> str:
    """Writes method.json, tables.md, method.png and a sheet for each concept; returns the Markdown."""
    arms, parts, kept = present(comparison), [], {}
    for level in levels:
        rows = {row.arm: row for row in comparison.rows(level)}
        ordered = [rows[arm] for arm in arms]
        kept[str(level)] = [asdict(row) for row in ordered]
        short = [*comparison.controls(), *(rows[arm] for arm in arms if arm not in ABLATIONS)]
        parts += [f"### In short, at fidelity {level:g}", "", table(short, SHORT), ""]
        parts += [f"### At fidelity {level:g}", "", table([*comparison.controls(), *ordered]), ""]
        if against in arms:
            others = [arm for arm in arms if arm != against]
            parts += [difference_table(comparison, against, others, level), ""]
    by_strength = strength_table(comparison, arms)
    parts += ["### By LoRA strength", "", by_strength, ""] if by_strength else []
    text = "\n".join(parts)
    write_text(out / "tables.md", text)
    write_text(out / "method.json", json.dumps(kept, indent=1))
    plot(comparison, [arm for arm in PLOTTED if arm in arms], out / "method.png")
    for concept in {result["concept"] for some in comparison.arms.values() for result in some}:
        sheet(work, concept, seed, [arm for arm in ON_SHEETS if arm in arms], out / f"sheet-{concept}.png")
    return text
