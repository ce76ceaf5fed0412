"""What being together does, as a person reads it: tables, and a sheet of pictures."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.method.compare import MEASURES, Scale
from benchmarks.method.report import COLUMNS, cell, difference_cell
from benchmarks.method.together.pairs import pairs_of
from benchmarks.method.together.recipes import (
    ALONE,
    COLOURS,
    DRAWN,
    MIXED,
    PRETRAINED,
    RECIPES,
    STYLE,
    SUBJECTS,
    TRIGGERS,
    WITH_STYLE,
    concepts_of,
    looks_of,
    trial_file,
)
from library.evaluation.measures.statistics import Estimate, mean_over_clusters
from library.files.atomic import write_text
from library.report.sheet import SheetRow, save_sheet

FIDELITY, OTHERS, STYLED = "fidelity", "others", "styled"
FROM_BENCH = ("follow", "seg_cons", "trap_unasked", "contamination", "pixels_unrelated", "drift")
FIGURES = {
    FIDELITY: ("fidelity", 2, +1),
    OTHERS: ("looks of the other subjects", 3, -1),
    COLOURS: ("colours of the other subjects", 3, -1),
    STYLED: ("the style, unasked", 3, -1),
    **{name: COLUMNS[name] for name in FROM_BENCH},
}
"""Figure, its name in the tables, its decimals, and which way is good."""
ON_SHEET = (
    ("Mix-of-Show", ALONE), ("Mix-of-Show", "fused"), ("Mix-of-Show", "fused by LBFGS"), ("CIFC", "aggregated"),
    ("plain LoRA", "added"), ("lean", ALONE), ("lean", "added"), ("lean", "fused"), ("lean", "jointly"),
    ("pure", "jointly"),
)  # fmt: skip
SHOWN_PROBES = {"concept": 2, "class": 1}
"""Prompts of each concept on the sheet."""
SHOWN_OF_PAIRS = 1
"""The same of each pair."""
TABLES = {SUBJECTS: "the three subjects", WITH_STYLE: "a subject and a style"}
"""The concepts that are in one model, and what the tables call them."""

Prompt = tuple[str, str, int]
"""A concept, a sort of prompts, and the number in that sort."""
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
        """A figure of one concept's prompts, by their sort; what a concept or a control lacks is left out."""
        asked = probes["concept"]
        if figure == FIDELITY:
            return {"concept": self.scales[name].share(np.array(asked[FIDELITY]))}
        if figure == OTHERS:
            others = [asked[looks] for looks in map(looks_of, SUBJECTS) if looks in asked]
            return {"concept": np.mean(others, axis=0)} if others else {}
        if figure in (COLOURS, STYLED):
            measure = COLOURS if figure == COLOURS else looks_of(STYLE)
            return {"concept": asked[measure]} if measure in asked else {}
        measure, sorts = MEASURES[figure]
        return {sort: probes[sort][measure] for sort in sorts if measure in probes.get(sort, {})}

    def figure(self, model: tuple[str, str], figure: str, names: Sequence[str] = tuple(TRIGGERS)) -> Estimate:
        """Its mean over prompts, and over seeds.

        Args:
            names: of the concepts whose prompts count.
        """
        return _mean({key: value for key, value in self.values(model, figure).items() if key[0][0] in names})

    def in_one_prompt(self, model: tuple[str, str], pair: str, measure: str) -> Estimate:
        """A measure of the prompts that name both of a pair, its mean over prompts and seeds."""
        values: Values = {}
        for trial in self.trials[model]:
            some = trial["pairs"].get(pair, {}).get(measure, [])
            values |= {((pair, measure, k), trial["seed"]): value for k, value in enumerate(some)}
        return _mean(values)

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
    parts = []
    for names, called in TABLES.items():
        models = [model for model in results.models() if RECIPES[model[0]].names == names]
        if models:
            parts += _tables_of(results, names, called, models)
    return "\n\n".join(parts) + "\n"


def _tables_of(results: Results, names: Sequence[str], called: str, models: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The tables of the models of some concepts."""
    every, titles = [(PRETRAINED, ""), (DRAWN, ""), *models], [title for title, _, _ in FIGURES.values()]
    yield f"### Means over {called}"
    yield _table(
        "model",
        titles,
        {
            _name(model): [
                _value(results.figure(model, figure, names), digits) for figure, (_, digits, _) in FIGURES.items()
            ]
            for model in every
        },
    )
    yield f"### {called.capitalize()} together, minus alone"
    yield _table(
        "model",
        titles,
        {
            _name(model): [
                difference_cell(results.difference(model, figure), digits, good)
                for figure, (_, digits, good) in FIGURES.items()
            ]
            for model in models
            if model[1] != ALONE
        },
    )
    yield f"### {called.capitalize()}, one by one"
    split = [(figure, name) for figure in (FIDELITY, OTHERS, COLOURS) for name in names]
    by_concept = {
        _name(model): [cell(results.figure(model, figure, [name]), FIGURES[figure][1]) for figure, name in split]
        for model in every
    }
    yield _table("model", [f"{FIGURES[figure][0]}, {name}" for figure, name in split], by_concept)
    yield f"### {called.capitalize()}, two in one prompt"
    pairs = pairs_of([*concepts_of(names).values()])
    asked = [(pair.name, looks_of(one.name)) for pair in pairs for one in pair.both]
    asked += [(pair.name, MIXED) for pair in pairs if pair.other.kind == "subject"]
    both = {
        _name(model): [cell(results.in_one_prompt(model, *one), 3) for one in asked]
        for model in every
        if model[1] != ALONE and model[0] != DRAWN
    }
    yield _table("model", [f"{pair}: {measure}" for pair, measure in asked], both)


def lost_result(results: Results) -> dict[str, Any]:
    """What each recipe keeps of three subjects in one model, a row for each way, in the form of `benchmarks.record`."""
    found = []
    for recipe, way in results.models():
        if way == ALONE or RECIPES[recipe].names != SUBJECTS:
            continue
        asked = {f"{figure}_alone": ((recipe, ALONE), figure) for figure in (FIDELITY, OTHERS)}
        asked |= {figure: ((recipe, way), figure) for figure in (FIDELITY, OTHERS, "seg_cons", "drift")}
        means = {name: results.figure(*one, SUBJECTS).value for name, one in asked.items()}
        found.append({"model": _name((recipe, way)), **means})
    columns = {
        "model": "recipe, way", "fidelity_alone": "fidelity alone", FIDELITY: "together",
        "others_alone": "looks of the other two, alone", OTHERS: "together",
        "seg_cons": "Seg-Cons, together", "drift": "velocity drift, together",
    }  # fmt: skip
    formats = {name: f".{FIGURES[name.removesuffix('_alone')][1]}f" for name in columns if name != "model"}
    return {"title": "Three subjects in one model", "rows": found, "columns": columns, "formats": formats}


def sheet(work: Path, results: Results, path: Path) -> None:
    """The same prompts and noise from each model of the three subjects, of trials that kept their pictures."""
    shown = {PRETRAINED: trial_file(work, PRETRAINED, "", 0)}
    for model in ON_SHEET:
        if model in results.trials:
            shown[_name(model)] = trial_file(work, *model, min(one["seed"] for one in results.trials[model]))
    files = {title: file.with_suffix(".safetensors") for title, file in shown.items()}
    pictures = {title: load_file(file) for title, file in files.items() if file.exists()}
    if not pictures:
        return
    concepts, rows = concepts_of(SUBJECTS), []
    for name, probes, sort, count in (
        *((one.name, one.probes(), *sort) for one in concepts.values() for sort in SHOWN_PROBES.items()),
        *((one.name, one.probes(), "concept", SHOWN_OF_PAIRS) for one in pairs_of([*concepts.values()])),
    ):
        for index in [k for k, probe in enumerate(probes) if probe.sort == sort][:count]:
            rows.append(
                SheetRow(f"{name}, {sort}", probes[index].text, [_shown(of, name, index) for of in pictures.values()])
            )
    save_sheet(path, "Three subjects in one model, at the end of training", list(pictures), rows)


def _shown(pictures: Mapping[str, Tensor], name: str, index: int) -> Tensor:
    """A kept picture, -1 to 1; grey where a model was not asked, as where each concept is alone."""
    kept = pictures.get(name)
    return (
        torch.zeros_like(next(iter(pictures.values()))[0].float()) if kept is None else kept[index].float() / 127.5 - 1
    )


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
