"""The page of all settings, built from their declarations."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gui import declared, recipes
from gui.pages.answers import field, house_of, posted, project_of, show
from gui.places import ROOT
from gui.projects import Project
from library.errors import PureCCError


def page(request: Request) -> Response:
    """Every setting, changed ones first."""
    return _shown(request, project_of(request), "settings.html")


def change(request: Request, form: FormData) -> Response:
    """Changes one setting, or undoes its change."""
    project = project_of(request)
    return _save(request, project, declared.with_value(project.changed, field(form, "name"), field(form, "value")))


def from_toml(request: Request, form: FormData) -> Response:
    """Makes the settings of a TOML the only changes."""
    return _save(request, project_of(request), declared.from_toml(field(form, "toml")))


def _save(request: Request, project: Project, changed: Mapping[str, Any]) -> Response:
    return _shown(request, replace(project, changed=dict(changed)).save(), "settings_list.html")


def _shown(request: Request, project: Project, template: str) -> Response:
    house = house_of(request)
    usual = recipes.settings_before_changes(project, house.machine)
    problem, plan = None, project.folder / recipes.PLAN
    try:
        recipes.plan_of(project, house.machine, house.cache)
    except PureCCError as error:
        problem = str(error)
    return show(
        request,
        template,
        project=project,
        settings=declared.all_settings(usual, project.changed),
        toml=declared.as_toml(project.changed),
        problem=problem,
        command=f"cd {shlex.quote(str(ROOT))} && python purecc_train.py --config_file {shlex.quote(str(plan))}",
        tab="plan",
    )


ROUTES = [
    Route("/p/{slug}/settings", page),
    Route("/p/{slug}/settings", posted(change), methods=["POST"]),
    Route("/p/{slug}/settings/toml", posted(from_toml), methods=["POST"]),
]
