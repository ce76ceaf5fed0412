"""The files of an audit: a JSON with every number, a page, a text, and sheets of pictures, worst first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from torch import Tensor

from library.evaluation.card import Card, best_of
from library.evaluation.drift import SIGMAS, Probe, Shift
from library.files.atomic import write_text
from library.files.picture_files import opened
from library.report.page import Pictures, Section, render, write_page
from library.report.sheet import SheetRow, save_sheet

DEFINITION = "drift-1"
"""Version of the rules, written with the numbers."""
EXPLAINED = (
    "Drift is ||v_s - v_0|| / ||v_0||, the change of the predicted velocity on the pretrained model's own images, at "
    "three noise levels. Without [V]: A up to .05, B .10, C .20, D .30. In the pocket world, where we scored "
    "hundreds of students, these thresholds are about a fifth, two fifths, seven tenths and all of the change that "
    "another seed makes. From .30 on, the images are different ones, and plain class prompts show the concept.",
    "Concept learned: how much better the reference images are predicted with [V]. A from a right change of .40, B "
    ".30, C .20, D .10. It shows that the LoRA knows these images. Look at its images to see whether it draws the "
    "concept elsewhere and whether it also learned the background. The thresholds come from one subject in the pocket "
    "world, so compare LoRAs of the same images rather than letters of different ones.",
    "Behaviour kept is the worst of three: drift outside the subject with [V] (A up to .10, B .20, C .40, D .55), "
    "drift of the class without [V], and drift of two of the class without [V]. The subject's region is roughly "
    "estimated from where the pretrained prediction depends on the class word. The audit does not measure which of "
    "two of a class the LoRA changes: look at the sheet.",
    "Capability kept: drift of unrelated prompts. Other prompts are not measured.",
    "The thresholds have not been checked at full size yet.",
)


@dataclass(frozen=True)
class Shown:
    """Pictures of every probe, (3, H, W) in -1 .. 1: before, of its base text, and after."""

    before: list[Tensor]
    after: list[Tensor]

    def changes(self, probes: Sequence[Probe]) -> dict[str, float]:
        """How much pictures changed, by kind, as a share of what another seed changes; nothing for a single seed."""
        changed: dict[str, list[float]] = {}
        seed_to_seed: list[float] = []
        for row, probe in enumerate(probes):
            changed.setdefault(probe.kind, []).append(float((self.after[row] - self.before[row]).abs().mean()))
            nxt = row + 1
            if nxt < len(probes) and (probes[nxt].base, probes[nxt].kind) == (probe.base, probe.kind):
                seed_to_seed.append(float((self.before[nxt] - self.before[row]).abs().mean()))
        floor = sum(seed_to_seed) / len(seed_to_seed) if seed_to_seed else 0.0
        return {kind: sum(some) / len(some) / floor for kind, some in changed.items()} if floor else {}


@dataclass(frozen=True)
class Audit:
    """The results for one LoRA.

    Args:
        facts: what the file is.
    """

    card: Card
    probes: list[Probe]
    shifts: list[Shift]
    shown: Shown
    facts: dict[str, Any]


def write_audit(folder: Path, audits: Sequence[Audit], about: dict[str, Any]) -> str:
    """Writes audit.json, audit.md, audit.html and a sheet for each LoRA; returns what to say."""
    cards = [audit.card for audit in audits]
    front, best = best_of(cards)
    sheets = {}
    for audit in audits:
        path = folder / f"{Path(audit.facts['file']).stem}.png"
        sheet_of(audit, path)
        sheets[audit.card.name] = path
    result = {"definition": DEFINITION, **about, "front": [cards[k].name for k in front], "best": cards[best].name}
    write_text(folder / "audit.json", json.dumps({**result, "loras": [_as_dict(one) for one in audits]}, indent=1))
    text = markdown(cards, about, sheets)
    write_text(folder / "audit.md", text)
    left_out = about["left_out"]
    sections = [
        Section(
            "drift", "Drift report card", lambda pictures: fragment(cards, pictures, list(sheets.values()), left_out)
        )
    ]
    trigger = about["concept"]["trigger"]
    write_page(
        folder / "audit.html", f"Audit: {', '.join(card.name for card in cards)}", f"Trigger {trigger}", sections
    )
    said = [line for card in cards for line in lines_of(card)]
    if len(cards) > 1:
        said.append(f"Best of the {len(cards)}: {cards[best].name} (learned most, minus what it broke).")
    return "\n".join([*said, f"Open {folder / 'audit.html'}; all numbers are in {folder / 'audit.json'}."])


def lines_of(card: Card) -> list[str]:
    """A card in a few lines, for the terminal."""
    return [card.name, *(f"  {grade.name:<16}{grade.letter:<4}{grade.because}" for grade in card.grades)]


def lede_of(cards: Sequence[Card]) -> str:
    """The sentence above the table."""
    if len(cards) == 1:
        letters = ", ".join(f"{grade.name}: {grade.letter}" for grade in cards[0].grades)
        return f"{letters}. A is best, E is worst."
    _, best = best_of(cards)
    unit = "right change on the reference pictures" if cards[0].learned else "change that [V] makes, right or wrong"
    return (
        f"{len(cards)} LoRAs. Best, by learned ({unit}) minus drift without [V]: {cards[best].name}. A LoRA is on the "
        "front if no other beats it in both."
    )


def fragment(
    cards: Sequence[Card], pictures: Pictures, sheets: Sequence[Path] = (), left_out: Sequence[str] = ()
) -> Markup:
    """The card as a part of a page.

    Args:
        left_out: what of the files was not judged, in sentences.
    """
    front, best = best_of(cards)
    marks = ["best" if k == best else "on the front" if k in front else "" for k in range(len(cards))]
    tags = Markup()
    for path in sheets:
        tags += Markup("<h3>{}</h3><p>{}</p>").format(path.stem, _tag(path, pictures))
    shown = [{"name": c.name, "grades": c.grades, "reach": c.reach, "kept": c.kept, "rows": _rows(c)} for c in cards]
    return render(
        "drift.html",
        lede=" ".join([lede_of(cards), *left_out]),
        cards=shown,
        marks=marks,
        grade_names=[grade.name for grade in cards[0].grades],
        sigmas=SIGMAS,
        sheets=tags,
        explained=EXPLAINED,
    )


def _tag(sheet: Path, pictures: Pictures) -> Markup:
    return opened(sheet, lambda image: pictures.tag(image, f"sheet of {sheet.stem}", 2048))


def markdown(cards: Sequence[Card], about: dict[str, Any], sheets: dict[str, Path]) -> str:
    """The same as text."""
    front, best = best_of(cards)
    names = [grade.name for grade in cards[0].grades]
    lines = [
        "# Drift report card",
        "",
        " ".join([lede_of(cards), *about["left_out"]]),
        "",
        f"| LoRA | {' | '.join(names)} | learned | drift | |",
    ]
    lines.append("|---" * (len(names) + 4) + "|")
    for k, card in enumerate(cards):
        letters = " | ".join(grade.letter for grade in card.grades)
        mark = "best" if k == best else "front" if k in front else ""
        lines.append(f"| {card.name} | {letters} | {card.reach:.3f} | {card.kept:.3f} | {mark} |")
    for card in cards:
        lines += ["", f"## {card.name}", ""]
        lines += [f"- **{grade.name}: {grade.letter}**: {grade.because}." for grade in card.grades]
        levels = " | ".join(f"noise {sigma}" for sigma in SIGMAS)
        lines += ["", f"| velocity drift | mean | {levels} | pictures, of another seed's change |", "|---" * 6 + "|"]
        lines += [f"| {kind} | {' | '.join(row)} |" for kind, row in _rows(card)]
        if card.name in sheets:
            lines += ["", f"![before and after]({sheets[card.name].name})"]
    lines += ["", "## What the grades mean", "", *(f"{one}\n" for one in EXPLAINED)]
    lines += [f"Controls: {', '.join(f'{name} {value:.1e}' for name, value in about['floors'].items())}."]
    return "\n".join(lines) + "\n"


def sheet_of(audit: Audit, path: Path) -> None:
    """Before and after at equal seeds; prompts that should not change first, the one that drifts most on top."""
    groups: dict[tuple[str, str], list[int]] = {}
    for row, probe in enumerate(audit.probes):
        groups.setdefault((probe.kind, probe.shown), []).append(row)

    def drift(rows: list[int]) -> float:
        return sum(audit.shifts[row].mean_drift for row in rows) / len(rows)

    order = sorted(groups.items(), key=lambda item: (item[0][0] in ("concept", "bystander"), -drift(item[1])))
    rows = [
        SheetRow(_label(kind, drift(some)), text, [p for row in some for p in _pair(audit.shown, row)])
        for (kind, text), some in order
    ]
    most = max(len(row.pictures) for row in rows)
    columns = [f"{name}, seed {k + 1}" for k in range(most // 2) for name in ("before", "after")]
    save_sheet(path, f"{audit.card.name}: the same seeds before and after, worst first", columns, rows)


def _label(kind: str, drift: float) -> str:
    return f"{kind}; base text {drift:.2f}" if kind in ("concept", "bystander") else f"{kind}, drift {drift:.2f}"


def _pair(shown: Shown, row: int) -> tuple[Tensor, Tensor]:
    return shown.before[row], shown.after[row]


def _rows(card: Card) -> list[tuple[str, list[str]]]:
    """The table of a card: cells by kind of prompt."""
    rows = []
    for kind, mean in card.drift.items():
        change = card.pictures.get(kind)
        levels = [f"{value:.3f}" for value in card.by_sigma[kind]]
        rows.append((f"{kind}, without [V]", [f"{mean.value:.3f}", *levels, "" if change is None else f"{change:.0%}"]))
    change = card.pictures.get("concept")
    blank = [""] * len(SIGMAS)
    rows.append(("with [V]", [f"{card.scale.value:.3f}", *blank, "" if change is None else f"{change:.0%}"]))
    return rows


def _as_dict(audit: Audit) -> dict[str, Any]:
    prompts = [{**asdict(probe), **asdict(shift)} for probe, shift in zip(audit.probes, audit.shifts, strict=True)]
    return {**audit.facts, **audit.card.as_dict(), "prompts": prompts}
