"""The page of the queue."""

from __future__ import annotations

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gui import projects, runs, waiting
from gui.pages.answers import field, house_of, posted, show
from gui.places import NotHere


def page(request: Request) -> Response:
    """The run in training, the waiting runs, and the last ones that ended."""
    return _shown(request, "queue.html")


def part(request: Request) -> Response:
    """The same, without the rest of the page."""
    return _shown(request, "queue_list.html")


def _shown(request: Request, template: str) -> Response:
    root = house_of(request).root
    here = projects.all_in(root)
    every = [run for project in here for run in runs.runs_of(project)]
    names = {project.slug: project.name for project in here}
    ended = [run for run in every if run.launch and run.state not in runs.LIVE]
    return show(
        request,
        template,
        live=[run for run in every if run.state in runs.LIVE],
        entries=waiting.read(root),
        names=names,
        ended=sorted(ended, key=lambda run: -run.launch["at"])[:10],
    )


def change(request: Request, form: FormData) -> Response:
    """Moves, holds, schedules or removes a waiting run."""
    root, project, run = house_of(request).root, field(form, "project"), field(form, "run")
    how = request.path_params["how"]
    if how == "up":
        waiting.move_up(root, project, run)
    elif how in ("hold", "release"):
        waiting.hold(root, project, run, how == "hold")
    elif how == "at":
        waiting.start_at(root, project, run, field(form, "clock"), runs.now())
    elif how == "remove":
        waiting.remove(root, project, run)
    else:
        raise NotHere(how)
    return part(request)


ROUTES = [
    Route("/queue", page),
    Route("/queue/list", part),
    Route("/queue/{how}", posted(change), methods=["POST"]),
]
