"""The window as an ASGI application: its routes, its access checks, and its background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware

from gui import waiting
from gui.forecasts import Forecasts
from gui.guard import Access, Guard
from gui.pages import ROUTES
from gui.pages.answers import ON_ERRORS, House

SECONDS_BETWEEN = 2.0
"""Seconds between two checks whether the next run may start."""


def make_app(root: Path, access: Access) -> Starlette:
    """The application.

    Args:
        root: the folder of projects.
    """
    root.mkdir(parents=True, exist_ok=True)
    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(Guard, access=access)],
        exception_handlers=ON_ERRORS,
        lifespan=_beside,
    )
    app.state.house = House(root.resolve(), access.secret, Forecasts())
    return app


@asynccontextmanager
async def _beside(app: Starlette) -> AsyncIterator[None]:
    """Starts waiting runs at their time, as long as the window is open."""
    task = asyncio.create_task(_advance(app.state.house.root))
    try:
        yield
    finally:
        task.cancel()
        app.state.house.forecasts.close()


async def _advance(root: Path) -> None:
    while True:
        with suppress(OSError):  # a full disk: the pages say so to anyone who changes something
            await run_in_threadpool(waiting.advance, root)
        await asyncio.sleep(SECONDS_BETWEEN)
