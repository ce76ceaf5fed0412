"""The window, in your browser: python purecc_gui.py"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from library.config.files import plain_parser
from library.environment import prepare_process
from library.errors import ConfigError, exit_code_of

PACKAGES = {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart", "psutil": "psutil"}
"""Modules that the window needs besides the trainer's, and their packages."""
PORT = 7870


def main() -> None:
    """Reads the command line and serves the window."""
    parser = plain_parser("Opens the trainer's window in your browser.", "[--port N] [--listen] [--no_browser]")
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"Port of the window. Default: {PORT}.")
    parser.add_argument("--no_browser", action="store_true", help="Don't open the browser.")
    parser.add_argument(
        "--listen", action="store_true", help="Let other computers in, with a token that is printed at the start."
    )
    parser.add_argument(
        "--projects", metavar="FOLDER", help='Folder of your projects. Default: "projects" in the trainer\'s folder.'
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.port <= 65535:
        raise ConfigError(f"--port is {arguments.port}; it must be between 1 and 65535.")
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(f"The window needs {', '.join(missing)}.", f"Run: pip install {' '.join(missing)}")
    print("Opening the window ...", flush=True)
    from gui.server import serve  # after the command line: slow to import

    root = Path(arguments.projects).expanduser() if arguments.projects else Path(__file__).parent / "projects"
    serve(root.absolute(), arguments.port, arguments.listen, not arguments.no_browser)


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
