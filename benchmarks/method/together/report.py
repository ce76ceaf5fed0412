"""What being together does, as a person reads it: tables, and a sheet of pictures."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from benchmarks.method.compare import MEASURES, Scale
from benchmarks.method.report import COLUMNS, cell, difference_cell
from benchmarks.method.together.recipes import (
    ALONE,
    DRAWN,
    PRETRAINED,
    RECIPES,
    TRIGGERS,
    looks_of,
    subjects,
    trial_file,
)
from library.evaluation.measures.statistics import Estimate, mean_over_clusters
from library.files.atomic import write_text
from library.report.sheet import SheetRow, save_sheet

FIDELITY, OTHERS = "fidelity", "others"
FROM_BENCH = ("follow", "seg_cons", "trap_unasked", "contamination", "pixels_unrelated", "drift")
FIGURES = {
    FIDELITY: ("fidelity", 2, +1),
    OTHERS: ("looks of the other two", 3, -1),
    **{name: COLUMNS[name] for name in FROM_BENCH},
}
"""Figure, its name in the tables, its decimals, and which way is good."""
ON_SHEET = (
    ("Mix-of-Show", ALONE), ("Mix-of-Show", "fused"), ("Mix-of-Show", "fused by LBFGS"), ("CIFC", "aggregated"),
    ("plain LoRA", "added"), ("lean", ALONE), ("lean", "added"), ("lean", "fused"), ("lean", "jointly"),
    ("pure", "jointly"),
)  # fmt: skip
SHOWN_PROBES = {"concept": 2, "class": 1}
"""Prompts of each subject on the sheet."""

Prompt = tuple[str, str, int]
"""A subject, a sort of prompts, and the number in that sort."""
Values = dict[tuple[Prompt, int], float]
"""Of a measure, by prompt and training seed."""


class Results:
    """Trials, ready to be read.

    Args:
        results: of trials; the controls among them.
    """

    def __init__(self, results: Iterable[dict[str, Any]]) -> None:
        trials: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for result in results:
            trials[result["recipe"], result["way"]].append(result)
        self.trials = dict(trials)
        bounds = [
            {name: np.mean(of["concept"][FIDELITY]) for name, of in self.trials[control, ""][0]["concepts"].items()}
            for control in (PRETRAINED, DRAWN)
        ]
        self.scales = {name: Scale(bounds[0][name], bounds[1][name]) for name in TRIGGERS}

    def models(self) -> list[tuple[str, str]]:
        """Every recipe and way that has been tried, in the order of the recipes."""
        every = [(recipe, way) for recipe, one in RECIPES.items() for way in (ALONE, *one.ways)]
        return [model for model in every if model in self.trials]

    def values(self, model: tuple[str, str], figure: str) -> Values:
        """A figure, prompt by prompt: fidelity as a share of what can be had, everything else as the bench has it."""
        found: Values = {}
        for trial in self.trials.get(model, []):
            for name, probes in trial["concepts"].items():
                for sort, some in self._of(figure, name, probes).items():
                    kept = {k: value for k, value in enumerate(some) if value is not None}
                    found |= {((name, sort, k), trial["seed"]): float(value) for k, value in kept.items()}
        return found

    def _of(self, figure: str, name: str, probes: dict[str, Any]) -> dict[str, Sequence[float | None]]:
        """A figure of one subject's prompts, by their sort; what a control lacks is left out."""
        if figure == FIDELITY:
            return {"concept": self.scales[name].share(np.array(probes["concept"][FIDELITY]))}
        if figure == OTHERS:
            others = [probes["concept"][looks_of(one)] for one in TRIGGERS if one != name]
            return {"concept": np.mean(others, axis=0)}
        measure, sorts = MEASURES[figure]
        return {sort: probes[sort][measure] for sort in sorts if sort in probes}

    def figure(self, model: tuple[str, str], figure: str, name: str | None = None) -> Estimate:
        """Its mean over prompts, and over seeds.

        Args:
            name: a subject; None: all.
        """
        return _mean({key: value for key, value in self.values(model, figure).items() if name in (None, key[0][0])})

    def difference(self, model: tuple[str, str], figure: str) -> Estimate:
        """By how much it is more than where each concept is alone in its model, prompt by prompt."""
        together, alone = self.values(model, figure), self.values((model[0], ALONE), figure)
        return _mean({key: value - alone[key] for key, value in together.items() if key in alone})


def _mean(values: Values) -> Estimate:
    return mean_over_clusters([*values.values()], [prompt for prompt, _ in values])


def _table(head: str, columns: Sequence[str], rows: dict[str, Sequence[str]]) -> str:
    lines = [f"| {head} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


def _name(model: tuple[str, str]) -> str:
    return ", ".join(filter(None, model))


def _value(estimate: Estimate, digits: int) -> str:
    return "" if np.isnan(estimate.value) else f"{estimate.value:.{digits}f}"


def tables(results: Results) -> str:
    """Everything, as Markdown."""
    models, titles = results.models(), [title for title, _, _ in FIGURES.values()]
    every = [(PRETRAINED, ""), (DRAWN, ""), *models]
    means = {
        _name(model): [_value(results.figure(model, figure), digits) for figure, (_, digits, _) in FIGURES.items()]
        for model in every
    }
    lost = {
        _name(model): [
            difference_cell(results.difference(model, figure), digits, good)
            for figure, (_, digits, good) in FIGURES.items()
        ]
        for model in models
        if model[1] != ALONE
    }
    split = [(figure, name) for figure in (FIDELITY, OTHERS) for name in TRIGGERS]
    by_subject = {
        _name(model): [cell(results.figure(model, figure, name), FIGURES[figure][1]) for figure, name in split]
        for model in every
    }
    parts = [
        "### Means over the three subjects", _table("model", titles, means),
        "### Together, minus alone", _table("model", titles, lost),
        "### Subject by subject",
        _table("model", [f"{FIGURES[figure][0]}, {name}" for figure, name in split], by_subject),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def lost_result(results: Results) -> dict[str, Any]:
    """What each recipe keeps of three concepts in one model, a row for each way, in the form of `benchmarks.record`."""
    found = []
    for recipe, way in (model for model in results.models() if model[1] != ALONE):
        alone, together = (recipe, ALONE), (recipe, way)
        row: dict[str, Any] = {"model": _name(together)}
        for figure in (FIDELITY, OTHERS):
            row[f"{figure}_alone"] = results.figure(alone, figure).value
            row[figure] = results.figure(together, figure).value
        found.append({**row, **{figure: results.figure(together, figure).value for figure in ("seg_cons", "drift")}})
    columns = {
        "model": "recipe, way", "fidelity_alone": "fidelity alone", FIDELITY: "together",
        "others_alone": "looks of the other two, alone", OTHERS: "together",
        "seg_cons": "Seg-Cons, together", "drift": "velocity drift, together",
    }  # fmt: skip
    formats = {name: f".{FIGURES[name.removesuffix('_alone')][1]}f" for name in columns if name != "model"}
    return {"title": "Three concepts in one model", "rows": found, "columns": columns, "formats": formats}


def sheet(work: Path, results: Results, path: Path) -> None:
    """The same prompts and noise from each model, of trials that kept their pictures."""
    shown = {PRETRAINED: trial_file(work, PRETRAINED, "", 0)}
    for model in ON_SHEET:
        if model in results.trials:
            shown[_name(model)] = trial_file(work, *model, min(one["seed"] for one in results.trials[model]))
    files = {title: file.with_suffix(".safetensors") for title, file in shown.items()}
    pictures = {title: load_file(file) for title, file in files.items() if file.exists()}
    if not pictures:
        return
    rows = []
    for name, subject in subjects().items():
        probes = subject.probes()
        for sort, count in SHOWN_PROBES.items():
            for index in [k for k, probe in enumerate(probes) if probe.sort == sort][:count]:
                some = [of[name][index].float() / 127.5 - 1 for of in pictures.values()]
                rows.append(SheetRow(f"{name}, {sort}", probes[index].text, some))
    save_sheet(path, "Three subjects in one model, at the end of training", list(pictures), rows)


def write(results: Results, work: Path, out: Path) -> str:
    """Writes together.json, together-tables.md and together.png; returns the Markdown."""
    text = tables(results)
    write_text(out / "together-tables.md", text)
    kept = {
        _name(model): {
            "mean": {figure: asdict(results.figure(model, figure)) for figure in FIGURES},
            "minus alone": {figure: asdict(results.difference(model, figure)) for figure in FIGURES},
        }
        for model in results.models()
    }
    write_text(out / "together.json", json.dumps(kept, indent=1))
    sheet(work, results, out / "together.png")
    return text
