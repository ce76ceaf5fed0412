"""What every page needs: shared state, templates, and error pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from gui import machine, projects, runs
from gui.forecasts import Forecasts
from gui.guard import HEADERS
from gui.machine import Machine
from gui.places import NotHere
from gui.projects import Project
from library.errors import PureCCError, StorageError, why_not_written

GUI = Path(__file__).parent.parent
MOST_FIELDS = 40


@dataclass(frozen=True)
class House:
    """What all pages share. No project or run is kept in memory.

    Args:
        root: the folder of projects.
        secret: which pages send with every change.
        forecasts: the forecasts in progress.
    """

    root: Path
    secret: str
    forecasts: Forecasts

    @property
    def machine(self) -> Machine:
        """What we know about this computer."""
        return machine.load(self.root)

    @property
    def cache(self) -> Path:
        """The cache folder."""
        return self.root / "cache"


def house_of(request: Request) -> House:
    """The shared state of a request."""
    return request.app.state.house


def project_of(request: Request) -> Project:
    """The project in an address.

    Raises:
        NotHere: there is none.
    """
    return projects.load(house_of(request).root, request.path_params["slug"])


def run_of(request: Request) -> runs.Run:
    """The run in an address.

    Raises:
        NotHere: there is none.
    """
    return runs.load(project_of(request), request.path_params["run"])


def show(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, or a part of one, from its template. All text is escaped."""
    html = _environment.get_template(template).render(request=request, secret=house_of(request).secret, **values)
    return HTMLResponse(html, status)


def to(address: str) -> Response:
    """Sends the browser to another page."""
    return Response(status_code=204, headers={"HX-Redirect": quote(address)})


def refresh() -> Response:
    """Shows the same page again."""
    return Response(status_code=204, headers={"HX-Refresh": "true"})


def posted(handler: Callable[[Request, FormData], Response]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that gets a form's fields and may block."""

    async def endpoint(request: Request) -> Response:
        async with request.form(max_files=1, max_fields=MOST_FIELDS, max_part_size=1 << 20) as form:
            return await run_in_threadpool(handler, request, form)

    return endpoint


def field(form: FormData, name: str) -> str:
    """A text field of a form; "" if it is missing."""
    value = form.get(name)
    return value if isinstance(value, str) else ""


def whole_number(text: str) -> int | None:
    """A number from an address or a form; None if it isn't one."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _is_part(request: Request) -> bool:
    return request.method != "GET" or "hx-request" in request.headers


def _not_here(request: Request, error: Exception) -> Response:
    sentence = "This page does not exist, or no longer does."
    return PlainTextResponse(sentence, 404) if _is_part(request) else _failed(request, sentence, 404)


def _mistake(request: Request, error: Exception) -> Response:
    status = 507 if isinstance(error, StorageError) else 422
    return PlainTextResponse(str(error), status) if _is_part(request) else _failed(request, str(error), status)


def _of_the_system(request: Request, error: Exception) -> Response:
    if isinstance(error, FileNotFoundError):  # it was removed while it was being read
        return _not_here(request, error)
    why, remedy = why_not_written(error if isinstance(error, OSError) else OSError(str(error)))
    sentence = f"It could not be written: {why}. {remedy}."
    return PlainTextResponse(sentence, 507) if _is_part(request) else _failed(request, sentence, 507)


def _http(request: Request, error: Exception) -> Response:
    code = error.status_code if isinstance(error, HTTPException) else 500
    said = {404: "This page does not exist, or no longer does.", 405: "This is not possible here."}.get(
        code, "The window did not understand this request."
    )
    return PlainTextResponse(said, code) if _is_part(request) else _failed(request, said, code)


def _fault(request: Request, error: Exception) -> Response:
    sentence = "This is a bug in the window. Its terminal shows more."
    answer = PlainTextResponse(sentence, 500) if _is_part(request) else _failed(request, sentence, 500)
    answer.headers.update(HEADERS)  # it is answered before access control, which adds them to all other answers
    return answer


def _cut_off(request: Request, error: Exception) -> Response:
    return PlainTextResponse("It was too large, or the connection was lost.", 413)


def _failed(request: Request, sentence: str, status: int) -> Response:
    return show(request, "failed.html", status, sentence=sentence)


ON_ERRORS = {
    NotHere: _not_here,
    PureCCError: _mistake,
    OSError: _of_the_system,
    HTTPException: _http,
    ClientDisconnect: _cut_off,
    Exception: _fault,
}
"""The answer to each kind of error."""


def _in_bytes(count: float | None) -> str:
    if count is None:
        return "unknown"
    for limit, unit in ((1e9, "GB"), (1e6, "MB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}" if count < 10 * limit else f"{count / limit:.0f} {unit}"
    return f"{count / 1e3:.0f} kB"


def _in_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%d %b, %H:%M")


_environment = Environment(
    loader=FileSystemLoader(GUI / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "size": _in_bytes,
    "gib": lambda count: f"{count / 2**30:.1f} GiB",
    "duration": _in_time,
    "moment": _moment,
    "address": lambda text: quote(str(text), safe=""),
}
