"""The page of a run: its progress, its sheets, and its controls."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from gui import curves, machine, runs, waiting
from gui.pages.answers import field, house_of, posted, project_of, refresh, run_of, show
from gui.places import NotHere, existing
from gui.progress import Progress
from gui.runs import Run

LITTLE_DISK = 2_000_000_000
"""Free bytes below which a run is likely to fill the disk."""
PARTS = ("progress", "actions", "sheets", "curves", "log")


def newest(request: Request) -> Response:
    """The project's newest run, or a note that there is none."""
    project = project_of(request)
    found = runs.runs_of(project)
    return _page(request, found[0]) if found else show(request, "no_run.html", project=project, tab="training")


def page(request: Request) -> Response:
    """One run."""
    return _page(request, run_of(request))


def _page(request: Request, run: Run) -> Response:
    house_of(request).forecasts.drop(run.project)  # the plan page is no longer open
    others = runs.runs_of(run.project)
    parts = {f"{name}_part": _values(request, run, name) for name in PARTS}
    return show(request, "training.html", project=run.project, run=run, others=others, tab="training", **parts)


def _values(request: Request, run: Run, part: str) -> dict[str, Any]:
    """What a part of the page shows, and `mark`, which changes with it."""
    if part == "progress":
        queue = waiting.read(house_of(request).root)
        place = next((n for n, one in enumerate(queue, 1) if (one.project, one.run) == (run.project.slug, run.name)), 0)
        return {
            "mark": f"{run.state}-{run.status.get('updated_at')}-{place}",
            "place": place,
            "entry": queue[place - 1] if place else None,
            "progress": Progress.of(run),
            "disk": machine.free_disk(run.folder),
            "little": LITTLE_DISK,
        }
    if part == "actions":
        return {"mark": run.state}
    if part == "sheets":
        sheets = run.sheets()
        return {"mark": str(len(sheets)), "sheets": sheets}
    if part == "curves":
        charts = curves.charts_of(run)
        return {"mark": charts.mark, "charts": charts}
    lines = run.tail()
    return {"mark": str(abs(hash(tuple(lines)))), "lines": lines}


def part(request: Request) -> Response:
    """A part of the page, if it has changed since the browser got it."""
    run, name = run_of(request), request.path_params["part"]
    if name not in PARTS:
        raise NotHere(name)
    values = _values(request, run, name)
    if values["mark"] == request.query_params.get("mark"):
        return Response(status_code=204)
    return show(request, f"run_{name}.html", project=run.project, run=run, part=values)


def tell(request: Request, form: FormData) -> Response:
    """Stop, sample or save."""
    runs.ask(run_of(request), request.path_params["command"])
    return _actions(request)


def end(request: Request, form: FormData) -> Response:
    """Kills a run that does not react."""
    runs.end_at_once(run_of(request))
    return _actions(request)


def resume(request: Request, form: FormData) -> Response:
    """Continues a stopped run as soon as the GPU is free."""
    waiting.add(house_of(request).root, run_of(request))
    return refresh()


def _actions(request: Request) -> Response:
    run = run_of(request)
    return show(request, "run_actions.html", project=run.project, run=run, part=_values(request, run, "actions"))


def prompts(request: Request, form: FormData) -> Response:
    """Changes the prompts from the next sheet on."""
    runs.change_prompts(run_of(request), field(form, "prompts"))
    return Response("Saved. The next sheet uses these prompts.", media_type="text/plain")


def sheet(request: Request) -> Response:
    """A contact sheet."""
    samples = existing(run_of(request).folder, "samples")
    name = request.path_params["name"]
    if not name.endswith(".png"):
        raise NotHere(name)
    return FileResponse(existing(samples, name), media_type="image/png")


ROUTES = [
    Route("/p/{slug}/training", newest),
    Route("/p/{slug}/runs/{run}", page),
    Route("/p/{slug}/runs/{run}/part/{part}", part),
    Route("/p/{slug}/runs/{run}/tell/{command}", posted(tell), methods=["POST"]),
    Route("/p/{slug}/runs/{run}/end", posted(end), methods=["POST"]),
    Route("/p/{slug}/runs/{run}/resume", posted(resume), methods=["POST"]),
    Route("/p/{slug}/runs/{run}/prompts", posted(prompts), methods=["POST"]),
    Route("/p/{slug}/runs/{run}/samples/{name}", sheet),
]
