"""The first page: projects, what this computer has, and the first start."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import replace
from pathlib import Path

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gui import machine, projects, runs, waiting
from gui.pages.answers import field, house_of, posted, show, to
from gui.pictures import pictures_of
from gui.places import POCKET_PICTURES, existing
from library.errors import ConfigError


def home(request: Request) -> Response:
    """The projects, and the model files that are missing."""
    house = house_of(request)
    known, here = house.machine, projects.all_in(house.root)
    return show(
        request,
        "home.html",
        projects=[(one, pictures_of(one), next(iter(runs.runs_of(one)), None)) for one in here],
        waiting=len(waiting.read(house.root)),
        machine=known,
        missing=known.missing(),
        downloads=machine.DOWNLOADS,
        likely=[str(path) for path in machine.likely_places() if str(path) not in (known.comfyui, known.forge)],
        card=machine.card(),
        disk=machine.free_disk(house.root),
    )


def create(request: Request, form: FormData) -> Response:
    """A new project."""
    house = house_of(request)
    model = "pocket" if house.machine.missing() else "sd35"
    project = projects.create(house.root, field(form, "name"), model=model)
    return to(f"/p/{project.slug}")


def try_pocket(request: Request, form: FormData) -> Response:
    """A project with the bundled small model and its pictures."""
    about = {"trigger": "sks", "class_word": "creature", "model": "pocket"}
    project = projects.create(house_of(request).root, "Practice creature", **about)
    for file in POCKET_PICTURES.iterdir():
        shutil.copyfile(file, project.pictures / file.name)
    return to(f"/p/{project.slug}/plan")


def say_where(request: Request, form: FormData) -> Response:
    """Sets the folder of ComfyUI or Forge, or one of the model's files."""
    house = house_of(request)
    known = house.machine
    if folder := field(form, "ui"):
        machine.with_ui(known, folder).save(house.root)
        return to("/")
    for name in (one.name for one in dataclasses.fields(known)):
        if name in form:
            path = field(form, name).strip().strip('"')
            if path and not Path(path).expanduser().exists():
                raise ConfigError(
                    f"The file or folder {path[:300]} doesn't exist.", "Copy its path from your file manager."
                )
            known = replace(known, **{name: str(Path(path).expanduser().absolute()) if path else ""})
    known.save(house.root)
    return to("/")


def remove(request: Request, form: FormData) -> Response:
    """Moves a project into the folder `removed`, where it can be recovered."""
    house = house_of(request)
    project = projects.load(house.root, request.path_params["slug"])
    if runs.live_runs([project]):
        raise ConfigError("A run of this project is still running.", "Stop it first.")
    away = house.root / "removed"
    away.mkdir(exist_ok=True)
    target, number = away / project.slug, 2
    while target.exists():
        target, number = away / f"{project.slug}-{number}", number + 1
    existing(house.root, project.slug).rename(target)
    return to("/")


ROUTES = [
    Route("/", home),
    Route("/projects", posted(create), methods=["POST"]),
    Route("/practice", posted(try_pocket), methods=["POST"]),
    Route("/machine", posted(say_where), methods=["POST"]),
    Route("/p/{slug}/remove", posted(remove), methods=["POST"]),
]
