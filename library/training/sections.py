"""The sections of a run's `report.html`: samples, curves, pictures, files, time and memory, settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from library.config.fields import default_of, name_of
from library.config.groups import groups
from library.data.images import open_image
from library.data.pictures import Picture
from library.errors import DataError
from library.predictions import STUDENT
from library.preflight.plan import Plan
from library.report import curves, galleries
from library.report.galleries import Gallery
from library.report.log import RunLog, read_log
from library.report.page import Pictures, Section, render
from library.report.phases import Phases, kind_of_memory
from library.saving.keeping import AT_STEP
from library.saving.metadata import activation_text

MOST_PICTURES = 48
"""Most pictures of the data set in the report."""
THUMBNAIL = 256
"""Longest side of a picture of the data set, in pixels."""
SPECIAL = ("concept", "extractor", "embedding", "transformer")
"""Name endings of files that are not LoRAs."""


class RunView(Protocol):
    """The parts of a run that the report shows; see `library.training.report_page.Report`."""

    plan: Plan
    log: RunLog
    phases: Phases
    galleries: dict[str, Gallery]
    files: dict[Path, int]
    loads: dict[Path, str]


def report_sections(run: RunView) -> list[Section]:
    """The sections of a run's report, in order."""
    thumbnails: dict[Path, Image.Image | None] = {}
    return [
        Section("samples", "Before and after", lambda pictures: galleries.shown(run.galleries, pictures)),
        Section("curves", "Curves", lambda _: curves.shown(read_log(run.log.path))),
        Section("pictures", "Your pictures", lambda pictures: _pictures(run, pictures, thumbnails)),
        Section("files", "Files", lambda _: _files(run)),
        Section("cost", "Time and memory", lambda _: _cost(run)),
        Section("settings", "Settings", lambda _: _settings(run)),
    ]


def _pictures(run: RunView, pictures: Pictures, thumbnails: dict[Path, Image.Image | None]) -> str:
    every = list({picture.path: picture for picture in run.plan.pictures}.values())
    kept = {picture.path for picture in run.plan.validation}
    shown = []
    for picture in every[:MOST_PICTURES]:
        if picture.path not in thumbnails:
            thumbnails[picture.path] = _thumbnail(picture)
        image, texts = thumbnails[picture.path], picture.prompts[0]
        shown.append(
            {
                "name": picture.path.name,
                "size": f"{picture.original_size[0]} x {picture.original_size[1]}",
                "bucket": f"{picture.size[0]} x {picture.size[1]}",
                "use": "regularisation" if picture.subset.is_reg else "validation" if picture.path in kept else "",
                "image": pictures.tag(image, f"{picture.path.name}: {texts.complete}", THUMBNAIL) if image else "",
                "texts": {"complete": texts.complete, "base": texts.base, "target": texts.target},
                "variants": len(set(picture.prompts)) - 1,
            }
        )
    return render("pictures.html", pictures=shown, more=len(every) - len(shown))


def _thumbnail(picture: Picture) -> Image.Image | None:
    try:
        image = open_image(picture.path)
    except (DataError, OSError):
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return image


def _files(run: RunView) -> str:
    family = run.plan.parts.model.family
    loaders, known = family.loaders, family.lora_names.layouts
    formats = [name for name in run.plan.settings.saving.save_formats if name in known]
    endings = {name: known[name].ending for name in formats if known[name].ending}
    plain = next((name for name, layout in known.items() if not layout.ending), "")
    rows = read_log(run.log.path)
    losses = {row["step"]: row["validation"] for row in rows if row["stage"] == STUDENT and "validation" in row}
    found = []
    for path, step in sorted(run.files.items(), key=_last_first):
        if path.suffix != ".safetensors" or not path.is_file():
            continue
        stem = path.stem
        layout = next((name for name, ending in endings.items() if stem.endswith(ending)), plain)
        special = next((kind for kind in SPECIAL if stem.endswith(f"_{kind}")), None)
        uis = [] if special else [(ui, loaders.where[ui]) for ui in loaders.promised[layout]]
        found.append(
            {
                "name": path.name,
                "bytes": path.stat().st_size,
                "step": step,
                "special": special,
                "validation": None if special == "extractor" else losses.get(step),
                "uis": uis,
                "checked": run.loads.get(path),
            }
        )
    concepts = [{"name": one.name, "kind": one.kind, "trigger": one.trigger} for one in run.plan.parts.concepts]
    return render(
        "files.html", files=found, validated=bool(losses), concepts=concepts, prompt=activation_text(run.plan.parts)
    )


def _last_first(file: tuple[Path, int]) -> tuple[bool, bool, int]:
    """The final files, then those saved during training, newest first, then stage 1's."""
    path, step = file
    return path.stem.endswith("_extractor"), AT_STEP in path.stem, -step


def _cost(run: RunView) -> str:
    phases = run.phases.measured()
    whole = sum(phase.seconds for phase in phases)
    rows = [{"phase": phase, "share": phase.seconds / whole if whole else 0} for phase in phases]
    return render("cost.html", rows=rows, whole=whole, memory=kind_of_memory(run.plan.parts.model.device))


def _settings(run: RunView) -> str:
    sections = []
    for section, group in groups().items():
        values = getattr(run.plan.settings, section)
        rows = [_setting(field, getattr(values, field.name)) for field in dataclasses.fields(group)]
        sections.append({"name": section, "rows": rows, "changed": sum(row["changed"] for row in rows)})
    return render("settings.html", sections=sections)


def _setting(field: dataclasses.Field[Any], value: Any) -> dict[str, Any]:
    shown = "–" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return {
        "name": name_of(field),
        "value": {"True": "true", "False": "false"}.get(shown, shown),
        "changed": value != default_of(field),
        "help": field.metadata["help"],
    }
