"""The page of captions."""

from __future__ import annotations

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gui import captions, describing, pictures, reviewing, tokens
from gui.pages.answers import field, posted, project_of, refresh, show
from gui.projects import Project
from library.errors import ConfigError

CHANGED = "captions-changed"
"""What the page shows after a caption is saved."""


def page(request: Request) -> Response:
    """All captions."""
    project = project_of(request)
    found = captions.captions_of(project)
    return show(
        request,
        "captions.html",
        project=project,
        captions=found,
        undoable=len(captions.history(project)),
        empty=sum(not one.text for one in found),
        fallback=captions.fallback(project),
        can_describe=describing.is_there(),
        describing=describing.state_of(project),
        tab="captions",
    )


def save(request: Request, form: FormData) -> Response:
    """Saves one caption, and shows what it becomes."""
    project = project_of(request)
    picture = pictures.picture_named(project, request.path_params["name"])
    captions.write(project, {picture: field(form, "text")})
    answer = texts(request)
    answer.headers["HX-Trigger"] = CHANGED
    return answer


def findings(request: Request) -> Response:
    """What is likely to be wrong with the captions together; nothing while trigger or class word is missing."""
    project = project_of(request)
    try:
        found = reviewing.findings_of(project)
    except ConfigError:  # is shown below each caption
        found = []
    return show(request, "findings.html", findings=found)


def texts(request: Request) -> Response:
    """The three prompts of one caption, and their lengths."""
    project = project_of(request)
    picture = pictures.picture_named(project, request.path_params["name"])
    caption = captions.caption_of(project, picture)
    return show(request, "texts.html", project=project, caption=caption, length=_length(project, caption))


def _length(project: Project, caption: captions.Caption) -> dict | None:
    if caption.triple is None:
        return None
    ((clip, t5),), (most_clip, most_t5) = tokens.counts(project, [caption.triple.complete]), tokens.limits(project)
    return {"clip": clip, "t5": t5, "most_clip": most_clip, "most_t5": most_t5}


def undo(request: Request, form: FormData) -> Response:
    """Undoes the last change."""
    captions.undo(project_of(request))
    return refresh()


def replace(request: Request, form: FormData) -> Response:
    """Replaces one text with another in all captions."""
    project = project_of(request)
    changed = captions.replaced(project, field(form, "find"), field(form, "by"))
    if not changed:
        raise ConfigError("No caption contains this text.", "Capital letters count.")
    captions.write(project, changed)
    return refresh()


def fill(request: Request, form: FormData) -> Response:
    """Writes a plain caption for each picture without one."""
    project = project_of(request)
    project.concept()
    captions.write(project, dict.fromkeys(captions.empty_ones(project), captions.fallback(project)))
    return refresh()


def describe(request: Request, form: FormData) -> Response:
    """Lets a model write captions for the pictures without one."""
    describing.begin(project_of(request))
    return refresh()


def progress(request: Request) -> Response:
    """The progress of the model."""
    project = project_of(request)
    state = describing.state_of(project)
    return refresh() if state is None else show(request, "describing.html", project=project, describing=state)


ROUTES = [
    Route("/p/{slug}/captions", page),
    Route("/p/{slug}/captions/findings", findings),
    Route("/p/{slug}/captions/undo", posted(undo), methods=["POST"]),
    Route("/p/{slug}/captions/replace", posted(replace), methods=["POST"]),
    Route("/p/{slug}/captions/fill", posted(fill), methods=["POST"]),
    Route("/p/{slug}/captions/describe", posted(describe), methods=["POST"]),
    Route("/p/{slug}/captions/progress", progress),
    Route("/p/{slug}/captions/of/{name}", posted(save), methods=["POST"]),
    Route("/p/{slug}/captions/of/{name}", texts),
]
