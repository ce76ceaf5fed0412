"""The page of the plan: where the LoRA will be used, size, time, and what the run would need."""

from __future__ import annotations

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gui import captions, machine, recipes, runs, waiting
from gui.pages.answers import field, house_of, posted, project_of, show, to
from gui.pictures import pictures_of
from library.errors import PureCCError

STOP_POLLING = 286
"""The status that stops htmx from polling."""


def page(request: Request) -> Response:
    """The choices, and the forecast below them."""
    project, known = project_of(request), house_of(request).machine
    return show(
        request,
        "plan.html",
        project=project,
        machine=known,
        missing=known.missing(),
        count=len(pictures_of(project)),
        without=len(captions.empty_ones(project)),
        preset=recipes.preset_of(project).name,
        tab="plan",
    )


def choose(request: Request, form: FormData) -> Response:
    """Saves a choice and starts a new forecast."""
    project_of(request).with_values({name: field(form, name) for name in form}).save()
    return forecast(request)


def forecast(request: Request) -> Response:
    """What the run would need; polls until the forecast is there."""
    project, house = project_of(request), house_of(request)
    try:
        plan = recipes.plan_of(project, house.machine, house.cache)
        said = house.forecasts.of(project, plan, recipes.digest_of(project, plan))
        problem = None if said is None else said.problem
    except PureCCError as error:
        said, problem = None, str(error)
    done = said is not None or problem is not None
    tables = said.tables if said else None
    needed = sum(tables["disk"].values()) if tables else 0
    free = machine.free_disk(house.root)
    return show(
        request,
        "forecast.html",
        STOP_POLLING if done and "hx-request" in request.headers else 200,
        project=project,
        tables=tables,
        problem=problem,
        done=done,
        card=machine.card() if tables else None,
        full=free is not None and needed > free,
        free=free,
    )


def start(request: Request, form: FormData) -> Response:
    """Makes a run and starts it, or queues it if another one is training."""
    house = house_of(request)
    run = runs.create(project_of(request), house.machine, house.cache)
    house.forecasts.drop(run.project)
    waiting.add(house.root, run)
    return to(f"/p/{run.project.slug}/runs/{run.name}")


ROUTES = [
    Route("/p/{slug}/plan", page),
    Route("/p/{slug}/plan", posted(choose), methods=["POST"]),
    Route("/p/{slug}/forecast", forecast),
    Route("/p/{slug}/start", posted(start), methods=["POST"]),
]
