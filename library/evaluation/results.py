"""The files of an evaluation: results.json, report.md, and a sheet of pictures, worst first."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from library.evaluation.picture_measures import ArmPictures, Values
from library.evaluation.pictures import opened
from library.evaluation.prompts import EvaluationPrompt
from library.evaluation.scorers.interface import Identity
from library.evaluation.scorers.pixels import as_tensor
from library.evaluation.summary import Difference, Means, differences, in_words, means
from library.files.atomic import write_text
from library.report.sheet import SheetRow, save_sheet

SCHEMA = 1
"""Of results.json; grows when a key changes its meaning."""
SHOWN_ROWS = 24
WORST_BY = ("Seg-Cons", "LPIPS, concept", "delta CLIP-T", "delta prompt following")
"""Measures that the sheet is sorted by: the first that was taken."""


class Results:
    """Everything known so far, rewritten after each scorer, so that nothing is lost.

    Args:
        about: of the run: files and their hashes, seeds, settings, versions.
        controls: names of the arms that bound the table: the pretrained model, the floor, strength 0.
    """

    def __init__(
        self,
        folder: Path,
        about: dict[str, Any],
        prompts: Sequence[EvaluationPrompt],
        arms: Sequence[ArmPictures],
        controls: Sequence[str],
    ) -> None:
        self.folder = folder
        self.about = about
        self.prompts = list(prompts)
        self.arms = list(arms)
        self.controls = list(controls)
        self.identities = list[Identity]()
        self.notes = list[str]()

    def write(self, values: Values, status: str) -> str:
        """Writes results.json and report.md; returns the report.

        Args:
            status: "partial" until every scorer has looked.
        """
        measured = [arm.name for arm in self.arms if arm.name not in self.controls]
        floor = next((name for name in self.controls if name == "other noise"), "")
        found, apart = means(values), differences(values, measured, floor)
        write_text(self.folder / "results.json", json.dumps(self._json(values, found, apart, status), indent=1))
        report = self._report(values, found, apart, status)
        write_text(self.folder / "report.md", report)
        return report

    def _json(self, values: Values, found: Means, apart: Sequence[Difference], status: str) -> dict[str, Any]:
        taken = values.of_picture.items()
        rows = [
            {
                "arm": arm.name,
                "prompt": key[0],
                "seed": key[1],
                "file": str(file),
                **{name: some[arm.name][key] for name, some in taken if key in some.get(arm.name, {})},
            }
            for arm in self.arms
            for key, file in arm.files.items()
        ]
        return {
            "schema": SCHEMA,
            "status": status,
            **self.about,
            "scorers": [asdict(one) for one in self.identities],
            "definitions": {name: asdict(measure) for name, measure in values.measures.items()},
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "aggregates": {
                name: {arm: _plain(asdict(one)) for arm, one in arms.items()} for name, arms in found.items()
            },
            "differences": [_plain({**asdict(one), "real": one.is_real}) for one in apart],
            "notes": self.notes,
            "pictures": rows,
        }

    def _report(self, values: Values, found: Means, apart: Sequence[Difference], status: str) -> str:
        names = [arm.name for arm in self.arms]
        lines = ["# Evaluation", ""]
        if status != "done":
            lines += [f"**{status}: some scorers have not run yet.**", ""]
        lines += [
            f"{len(self.prompts)} prompts, seeds {', '.join(map(str, self.about['seeds']))}. Means, with 95 % "
            "bootstrap intervals over prompts in brackets. They do not cover another training seed.",
            "",
            f"| measure | good | {' | '.join(names)} |",
            "|---" * (len(names) + 2) + "|",
        ]
        absent = False
        for name, measure in values.measures.items():
            cells = []
            for arm in self.arms:
                one = found.get(name, {}).get(arm.name)
                text = in_words(one, measure.digits) if one else ""
                if not text and measure.needs_base and arm.base is None and arm.name not in self.controls:
                    text, absent = "n/a", True
                cells.append(text)
            lines.append(f"| {name} | {measure.target} | {' | '.join(cells)} |")
            among = found.get(name, {}).get("references among themselves")
            if among:
                lines.append(
                    f"| {name}, references among themselves | | {among.value:.{measure.digits}f} |"
                    + " |" * (len(names) - 1)
                )
        lines.append("")
        if absent:
            lines += ["n/a: this arm has no images of its own base model from the same noise (--external_base).", ""]
        lines += self._differences(values, apart)
        lines += ["## What the numbers are", ""]
        lines += [f"- **{name}** ({one.group} prompts): {one.definition}" for name, one in values.measures.items()]
        lines += ["", "Weights:", "", *(f"- {one.name}: {one.label}" for one in self.identities), ""]
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def _differences(self, values: Values, apart: Sequence[Difference]) -> list[str]:
        lines = [
            "## Which differences are real",
            "",
            "Paired by prompt. Real: the interval excludes 0 and a sign-flip test gives p below .05. By chance alone, "
            "about one row in twenty would be called real.",
            "",
            "| measure | arm | beside | difference | p | prompts | real |",
            "|---|---|---|---|---|---|---|",
        ]
        for one in apart:
            text = in_words(one.estimate, values.measures[one.measure].digits)
            real = "yes" if one.is_real else "no"
            lines.append(
                f"| {one.measure} | {one.arm} | {one.against} | {text} | {one.p:.3f} | {one.prompts} | {real} |"
            )
        return [*lines, ""]

    def sheet(self, values: Values, path: Path) -> None:
        """A row for each prompt with the concept, worst first: the pretrained model and every measured arm."""
        shown = [arm for arm in self.arms if arm.name not in self.controls[1:]]
        first = next(arm for arm in self.arms if arm.name not in self.controls)
        seed = self.about["seeds"][0]
        by = next((name for name in WORST_BY if name in values.of_picture), None)
        scores = values.of_picture.get(by, {}).get(first.name, {}) if by else {}
        direction = -1 if by and by.startswith("LPIPS") else 1
        rows = []
        for prompt in self.prompts:
            key = (prompt.id, seed)
            if any(key not in arm.files for arm in shown):
                continue
            score = scores.get(key)
            label = f"{prompt.group}{'' if score is None else f' {score:.3g}'}"
            order = (prompt.group != "concept", math.inf if score is None else direction * score)
            rows.append((order, SheetRow(label, prompt.text, [as_tensor(opened([a.files[key]])[0]) for a in shown])))
        rows.sort(key=lambda row: row[0])
        if rows:
            title = f"Seed {seed}, worst {by} first" if by else f"Seed {seed}"
            save_sheet(path, title, [arm.name for arm in shown], [row for _, row in rows[:SHOWN_ROWS]])


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """NaN as null, at any depth."""
    return {
        key: _plain(one) if isinstance(one, dict) else None if isinstance(one, float) and math.isnan(one) else one
        for key, one in values.items()
    }
