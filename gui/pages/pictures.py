"""The page of a project: what it is, and its pictures."""

from __future__ import annotations

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from gui import notes, pictures, tokens
from gui.pages.answers import field, posted, project_of, show, whole_number
from gui.places import inside
from gui.projects import Project
from library.errors import DataError, PureCCError

RARE_WORDS = frozenset({"ohwx"})
"""Words that CLIP reads as one token and that mean nothing to it."""


def page(request: Request) -> Response:
    """Shows kind, trigger, class word and pictures."""
    project = project_of(request)
    return show(request, "pictures.html", project=project, pictures=pictures.pictures_of(project), tab="pictures")


def about(request: Request, form: FormData) -> Response:
    """Saves name, kind, trigger and class word, and warns about doubtful ones."""
    project = project_of(request).with_values({name: field(form, name) for name in form}).save()
    return show(request, "about.html", project=project, said=_doubts(project))


def _doubts(project: Project) -> list[str]:
    """What is likely to be wrong with trigger and class word, one sentence each."""
    said = []
    if project.class_word or project.kind == "style":
        try:
            project.concept()
        except PureCCError as error:
            said.append(f"{error.what} {error.remedy or ''}")
    if project.model == "sd35" and project.trigger not in RARE_WORDS and tokens.is_a_real_word(project):
        said.append(f"The model already knows the word “{project.trigger}”. A rare one, such as ohwx, works better.")
    return said


def grid(request: Request) -> Response:
    """Only the pictures."""
    project = project_of(request)
    return show(request, "grid.html", project=project, pictures=pictures.pictures_of(project))


def add(request: Request, form: FormData) -> Response:
    """Adds one picture."""
    file = form.get("picture")
    if not isinstance(file, UploadFile):
        raise DataError("No picture was received.", "Try again.")
    path = pictures.take_in(project_of(request), file.filename or "", file.file)
    return Response(path.name, 201, media_type="text/plain; charset=utf-8")


def take_out(request: Request, form: FormData) -> Response:
    """Removes a picture."""
    project, name = project_of(request), request.path_params["name"]
    pictures.take_out(project, name)
    pictures.forget_small(inside(project.folder, "small"), name)
    return grid(request)


def small(request: Request) -> Response:
    """A small version of a picture; the upload itself is never sent back."""
    project = project_of(request)
    side = whole_number(request.query_params.get("side", ""))
    path = pictures.picture_named(project, request.path_params["name"])
    file = pictures.small(inside(project.folder, "small"), path, side if side in pictures.SIDES else 320)
    return FileResponse(file, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


def all_notes(request: Request) -> Response:
    """What the doctor finds."""
    project = project_of(request)
    together, own = notes.notes_of(project)
    return show(request, "notes.html", project=project, together=together, own=own, paths=pictures.pictures_of(project))


ROUTES = [
    Route("/p/{slug}", page),
    Route("/p/{slug}/about", posted(about), methods=["POST"]),
    Route("/p/{slug}/grid", grid),
    Route("/p/{slug}/notes", all_notes),
    Route("/p/{slug}/pictures", posted(add), methods=["POST"]),
    Route("/p/{slug}/pictures/{name}", small),
    Route("/p/{slug}/pictures/{name}/remove", posted(take_out), methods=["POST"]),
]
