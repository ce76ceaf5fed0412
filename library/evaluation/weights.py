"""The command `weights`: what the scorers need, which of it is there, and where to get the rest."""

from __future__ import annotations

from pathlib import Path

from library.config.files import plain_parser
from library.evaluation.scorers.catalogue import PAPER, SCORERS


def run(words: list[str]) -> str:
    """The list."""
    parser = plain_parser("Lists the scorers' weights.", "weights [--weights_dir DIR]")
    parser.add_argument(
        "--weights_dir", metavar="DIR", default="scorers", help="Folder of the scorers' weights. Default: scorers."
    )
    folder = Path(parser.parse_args(words).weights_dir).expanduser()
    lines = []
    for entry in SCORERS.values():
        problem = entry.problem(folder)
        state = "ready" if problem is None else problem.what.partition(": ")[2]
        asked = "by default" if entry.name in PAPER else "by --scorers"
        stand_in = f"; a stand-in for {entry.stands_in_for}" if entry.stands_in_for else ""
        lines += [
            f"{entry.name} ({asked}): {', '.join(entry.roles.values())}{stand_in}",
            f"    {state}",
            f"    {entry.folder_in(folder)}: {', '.join(entry.files)}",
            f"    {entry.repository}, about {entry.size}, {entry.licence}",
        ]
    return "\n".join(lines)
