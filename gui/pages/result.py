"""The page of a result: choose a step, send it to a UI, try prompts."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from gui import asked, audits, captions, delivery, parcel, projects, runs, trials
from gui.pages.answers import field, house_of, posted, project_of, run_of, show, whole_number
from gui.places import NotHere, existing
from gui.runs import Run
from library.errors import ConfigError

REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'self'; sandbox allow-scripts"
)
"""The report is one file with its own script; the sandbox keeps it away from the window."""
DOWNLOADS = (".safetensors", ".json", ".png", ".toml")


def newest(request: Request) -> Response:
    """The newest run with saved files."""
    project = project_of(request)
    run = next((one for one in runs.runs_of(project) if one.files()), None)
    return _page(request, run) if run else show(request, "no_run.html", project=project, tab="result")


def page(request: Request) -> Response:
    """The result of one run."""
    return _page(request, run_of(request))


def _page(request: Request, run: Run) -> Response:
    files, house = run.files(), house_of(request)
    steps = sorted(files, key=lambda step: (step is None, step or 0))
    last = max((step for step, _ in run.sheets()), default=None)
    sheets = {None if step == last and None in files else step: name for step, name in run.sheets()}
    return show(
        request,
        "result.html",
        project=run.project,
        run=run,
        others=[one for one in runs.runs_of(run.project) if one.files()],
        files=files,
        steps=steps,
        sheets=sheets,
        machine=house.machine,
        has_report=(run.folder / "report.html").is_file(),
        has_strengths=(run.folder / "samples" / "strengths.png").is_file(),
        prompt=captions.fallback(run.project),
        trials=_trials(run),
        audits=_audits(run),
        choices=audits.choices(run.project),
        tab="result",
    )


def _trials(run: Run) -> list[tuple[trials.Trial, str, str | None]]:
    return [(one, *trials.state_of(run, one)) for one in trials.trials_of(run)]


def _audits(run: Run) -> list[tuple[audits.Audit, str, str | None, list[audits.Grade]]]:
    return [(one, *audits.state_of(run, one), audits.grades_of(run, one)) for one in audits.audits_of(run)]


def report(request: Request) -> Response:
    """report.html, sandboxed."""
    return _locked_in(existing(run_of(request).folder, "report.html"))


def _locked_in(page: Path) -> Response:
    return HTMLResponse(page.read_bytes(), headers={"content-security-policy": REPORT_POLICY})


def deliver(request: Request, form: FormData) -> Response:
    """Puts a step's files into a UI's folders."""
    run, house = run_of(request), house_of(request)
    done = delivery.deliver(run, house.machine, field(form, "ui"), _step(field(form, "step")))
    return show(request, "delivered.html", delivered=done)


def _step(given: str) -> int | None:
    step = whole_number(given)
    if given not in ("", "end") and step is None:
        raise ConfigError(f"{given[:20]!r} is not a step.")
    return step


def try_prompt(request: Request, form: FormData) -> Response:
    """Draws a prompt."""
    run = run_of(request)
    _check_free(request, run)
    try:
        strength = float(field(form, "strength") or 1)
    except ValueError as error:
        raise ConfigError("The strength is not a number.") from error
    trials.begin(run, field(form, "prompt"), strength, _step(field(form, "step")))
    return show(request, "trials.html", project=run.project, run=run, trials=_trials(run))


def _check_free(request: Request, run: Run) -> None:
    """Refuses work that would have to share the GPU.

    Raises:
        ConfigError: a run is training, or an earlier request is still in progress.
    """
    if runs.live_runs(projects.all_in(house_of(request).root)):
        raise ConfigError("The GPU is busy with training.", "Try again when the run has ended.")
    if any(state == asked.WORKING for _, state, *_ in (*_trials(run), *_audits(run))):
        raise ConfigError("The GPU is busy with your previous request.", "Try again when that is done.")


def all_trials(request: Request) -> Response:
    """The trials, with the results so far."""
    run = run_of(request)
    return show(request, "trials.html", project=run.project, run=run, trials=_trials(run))


def trial(request: Request) -> Response:
    """The picture of a trial."""
    folder = existing(run_of(request).folder, trials.FOLDER)
    return _file(folder, request.path_params["name"], (".png",), None)


def audit(request: Request, form: FormData) -> Response:
    """Audits another LoRA, from the project or uploaded."""
    run, file = run_of(request), form.get("file")
    _check_free(request, run)
    if isinstance(file, UploadFile) and file.filename:
        lora = audits.take_in(run, file.filename, file.file)
    else:
        lora = audits.chosen(run.project, field(form, "lora"))
    audits.begin(run, lora, field(form, "trigger"))
    return show(request, "audits.html", project=run.project, run=run, audits=_audits(run))


def all_audits(request: Request) -> Response:
    """The audits, with the results so far."""
    run = run_of(request)
    return show(request, "audits.html", project=run.project, run=run, audits=_audits(run))


def card(request: Request) -> Response:
    """The report card of one audit, sandboxed."""
    number = whole_number(request.path_params["number"])
    if number is None:
        raise NotHere(request.path_params["number"])
    return _locked_in(audits.card_of(run_of(request), number))


def whole(request: Request) -> Response:
    """Everything that belongs to a step, as a zip."""
    run, step = run_of(request), _step(request.query_params.get("step", ""))
    name = quote(f"{run.project.slug}{'' if step is None else f'-step{step}'}.zip")
    files = parcel.contents(run, step)
    headers = {"content-disposition": f"attachment; filename*=utf-8''{name}"}
    return StreamingResponse(parcel.stream(run, files), media_type="application/zip", headers=headers)


def download(request: Request) -> Response:
    """One of a run's files."""
    name = request.path_params["name"]
    return _file(run_of(request).folder, name, DOWNLOADS, name)


def _file(folder: Path, name: str, endings: tuple[str, ...], save_as: str | None) -> Response:
    path = existing(folder, name)
    if not path.is_file() or not name.endswith(endings):
        raise NotHere(name)
    media = "image/png" if name.endswith(".png") else "application/octet-stream"
    return FileResponse(path, filename=save_as, media_type=media)


ROUTES = [
    Route("/p/{slug}/result", newest),
    Route("/p/{slug}/runs/{run}/result", page),
    Route("/p/{slug}/runs/{run}/report", report),
    Route("/p/{slug}/runs/{run}/deliver", posted(deliver), methods=["POST"]),
    Route("/p/{slug}/runs/{run}/trials", posted(try_prompt), methods=["POST"]),
    Route("/p/{slug}/runs/{run}/trials", all_trials),
    Route("/p/{slug}/runs/{run}/trials/{name}", trial),
    Route("/p/{slug}/runs/{run}/audits", posted(audit), methods=["POST"]),
    Route("/p/{slug}/runs/{run}/audits", all_audits),
    Route("/p/{slug}/runs/{run}/audits/{number}", card),
    Route("/p/{slug}/runs/{run}/zip", whole),
    Route("/p/{slug}/runs/{run}/files/{name}", download),
]
