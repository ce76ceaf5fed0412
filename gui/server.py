"""Serves the window, and opens it in the browser."""

from __future__ import annotations

import socket
import threading
import webbrowser
from pathlib import Path

import uvicorn
from filelock import FileLock, Timeout

from gui.app import make_app
from gui.guard import access_of, addresses
from library.errors import ConfigError
from library.terminal import say

CLOSING = "Press Ctrl-C to close it. Training continues and is still here when you open the window again."
LOCK, PORTS = ".window.lock", 10
"""The lock file of the open window; how many ports are tried, starting with the given one."""


class _Server(uvicorn.Server):
    """Prints its address as soon as it listens."""

    def __init__(self, config: uvicorn.Config, opened: list[str], browser: bool) -> None:
        super().__init__(config)
        self._opened, self._browser = opened, browser

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        if self.started:
            say("\n".join(["The window is open at", *(f"  {address}" for address in self._opened), CLOSING]))
            if self._browser:
                threading.Thread(target=webbrowser.open, args=(self._opened[0],), daemon=True).start()


def serve(root: Path, port: int, listen: bool, browser: bool) -> None:
    """Serves until Ctrl-C.

    Args:
        root: the folder of projects.
        listen: other computers may open the window, with the token.
        browser: opens it here.

    Raises:
        ConfigError: another window has these projects open, or no port is free.
    """
    access = access_of(root, listen)
    lock = FileLock(root / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"A window is already open for {root}.", "Look in your browser, or close the other one with Ctrl-C."
        ) from None
    host = "0.0.0.0" if listen else "127.0.0.1"
    config = uvicorn.Config(
        make_app(root, access), host=host, port=_free_port(host, port), log_level="warning", access_log=False,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    with lock:
        _Server(config, list(addresses(config.port, listen, access.token)), browser).run()


def _free_port(host: str, wanted: int) -> int:
    """The given port, or the next free one."""
    for port in range(wanted, min(wanted + PORTS, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise ConfigError(f"Port {wanted} and the next ones are in use.", "Choose another, such as --port 9000.")
