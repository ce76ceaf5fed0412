"""The pages, a file each, and their routes."""

from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from gui.pages import captions, home, pictures, plan, queue, result, settings, training
from gui.pages.answers import GUI

ROUTES = [
    *(route for page in (home, pictures, captions, plan, settings, training, result, queue) for route in page.ROUTES),
    Mount("/static", StaticFiles(directory=GUI / "static")),
]
