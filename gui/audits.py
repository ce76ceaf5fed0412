"""Report cards of other LoRAs, made by `purecc_evaluate.py audit`."""

from __future__ import annotations

import json
import shutil
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gui import asked, children, runs
from gui.delivery import lora_of
from gui.pictures import shown, stem_of
from gui.places import EVALUATE, existing, inside
from gui.projects import Project
from gui.runs import Run
from library.errors import ConfigError, DataError, ModelError
from library.files.atomic import remove, written
from library.models.loading.tensor_file import read_entries

FOLDER, BROUGHT, CARD = "audits", "brought", "audit.html"
"""The folder of a run's audits, its folder of uploaded files, and the page of one audit."""
ENDING = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Audit(asked.Asked):
    """A LoRA that was audited; its result is a page.

    Args:
        lora: its file's name, or the run and the name.
        trigger: of its concept.
    """

    lora: str
    trigger: str

    @property
    def result(self) -> str:
        return f"{self.stem}/{CARD}"


@dataclass(frozen=True)
class Grade:
    """A grade, and what it is for."""

    name: str
    letter: str
    because: str


def audits_of(run: Run) -> list[Audit]:
    """All of a run, newest first."""
    return asked.all_of(Audit, run.folder / FOLDER)


def state_of(run: Run, audit: Audit) -> tuple[str, str | None]:
    """Its status, and why it failed."""
    return asked.state_of(run.folder / FOLDER, audit)


def grades_of(run: Run, audit: Audit) -> list[Grade]:
    """The grades of a finished audit."""
    file = run.folder / FOLDER / audit.stem / "audit.json"
    with suppress(OSError, ValueError, LookupError, TypeError):
        (card,) = json.loads(file.read_text(encoding="utf-8"))["loras"]
        return [Grade(str(one["name"]), str(one["letter"]), str(one["because"])) for one in card["grades"]]
    return []


def card_of(run: Run, number: int) -> Path:
    """The page of an audit.

    Raises:
        NotHere: there is none.
    """
    return existing(existing(existing(run.folder, FOLDER), f"{number:03d}"), CARD)


def choices(project: Project) -> dict[str, str]:
    """The project's LoRAs: the value that a form sends for each, and its label."""
    found = {}
    for run in runs.runs_of(project):
        for step in sorted(run.files(), key=lambda one: (one is None, one or 0)):
            key, words = ("end", "the end") if step is None else (step, f"step {step}")
            found[f"{run.name}/{key}"] = f"Run {run.name}, {words}"
    return found


def chosen(project: Project, choice: str) -> Path:
    """The file of a choice.

    Raises:
        ConfigError: not one of them.
    """
    if choice not in choices(project):
        raise ConfigError("You haven't chosen a LoRA.", "Choose one from this project, or a file.")
    name, _, step = choice.partition("/")
    run = runs.load(project, name)
    return run.folder / lora_of(run, None if step == "end" else int(step))


def take_in(run: Run, name: str, content: BinaryIO) -> Path:
    """Keeps an uploaded LoRA until the next upload.

    Raises:
        DataError: not a LoRA's file, damaged, or too large.
        StorageError: the disk is full or read-only.
    """
    if not name.lower().endswith(ENDING):
        raise DataError(f"{shown(name)} is not a {ENDING} file.", "Pickled files (.pt, .ckpt, .bin) are never opened.")
    folder = inside(run.folder, FOLDER)
    folder.mkdir(exist_ok=True)
    brought = inside(folder, BROUGHT)
    remove(brought)
    brought.mkdir()
    target = inside(brought, f"{stem_of(name)}{ENDING}")
    with written(target, durable=False) as temporary:
        with temporary.open("wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
        try:
            read_entries(temporary)
        except ModelError as error:
            raise DataError(error.what.replace(str(temporary), shown(name)), error.remedy) from error
    return target


def begin(run: Run, lora: Path, trigger: str) -> Audit:
    """Audits a LoRA on the model of a run. With another trigger than the run's, its pictures are not used.

    Raises:
        ConfigError: no trigger.
    """
    trigger, concept = " ".join(trigger.split())[:200], run.project.concept()
    if not trigger:
        raise ConfigError("The trigger word is missing.", "The LoRA's download page usually lists it as “trigger”.")
    config, folder = existing(run.folder, "config.toml"), run.folder / FOLDER
    words = ["--config_file", config]
    if trigger != concept.trigger:
        words += [f"--trigger={trigger}", f"--kind={concept.kind}", f"--resolution={_size_of(run)}"]
        words += [f"--class_word={concept.class_word}"] if concept.class_word else []

    def command(audit: Audit) -> list[str]:
        return children.command_of(EVALUATE, "audit", lora, *words, f"--out={folder / audit.stem}")

    name = lora.name if lora.parent.name == BROUGHT else f"{lora.parent.name}/{lora.name}"
    return asked.begin(folder, Audit(number=0, lora=name, trigger=trigger), command)


def _size_of(run: Run) -> str:
    """The run's training resolution, as the command line takes it."""
    tables = tomllib.loads(existing(run.folder, runs.SETTINGS).read_text(encoding="utf-8"))
    size = tables["datasets"][0]["resolution"]
    return ",".join(map(str, size)) if isinstance(size, list) else str(size)
