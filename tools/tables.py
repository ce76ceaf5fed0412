"""Writes the tables of measurements into the pages that show them: python -m tools.tables [--check]

The measurements are in `docs/measured`, one JSON file each, as `benchmarks.record` writes them. A page has a place for
each of its tables:

    <!-- measured: counts, resolution = 512 -->
    <!-- end -->

This one shows the rows of `docs/measured/counts.json` whose resolution is 512. The command that measured them is named
below the table.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.record import origin, read, table
from library.files.atomic import write_text

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "docs" / "measured"
PLACE = re.compile(r"^( *)<!-- measured: ([^\n]+?) -->\n(.*?)^ *<!-- end -->$", re.MULTILINE | re.DOTALL)
"""A place for a table: its indentation, what it shows, and what is in it now."""


def pages() -> list[Path]:
    """The README and every page of the docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shown_on(page: Path) -> list[str]:
    """What the places of a page show: names of files, some with the rows."""
    return [place[2] for place in PLACE.finditer(page.read_text(encoding="utf-8"))]


def filled(text: str, folder: Path = MEASURED) -> str:
    """A page with every place filled from the files of a folder."""
    return PLACE.sub(_filler(folder), text)


def _filler(folder: Path) -> Callable[[re.Match[str]], str]:
    def fill(place: re.Match[str]) -> str:
        indent, shown = place[1], place[2]
        name, *conditions = (part.strip() for part in shown.split(","))
        result = read(folder / f"{name}.json")
        only = {column.strip(): value.strip() for column, value in (one.split("=") for one in conditions)}
        lines = [f"<!-- measured: {shown} -->", *table(result, only).splitlines(), "", origin(result), "<!-- end -->"]
        return "\n".join(indent + line if line else "" for line in lines)

    return fill


def main() -> None:
    """Writes the tables, or with --check says which pages are out of date."""
    parser = argparse.ArgumentParser(description="Writes the tables of docs/measured into the pages.")
    parser.add_argument("--check", action="store_true", help="Write nothing; exit with 1 if a page is out of date.")
    check = parser.parse_args().check
    stale = [page for page in pages() if filled(text := page.read_text(encoding="utf-8")) != text]
    for page in stale:
        print(f"{page.relative_to(ROOT)}: {'out of date' if check else 'written'}")
        if not check:
            write_text(page, filled(page.read_text(encoding="utf-8")))
    if check and stale:
        parser.exit(1, "Run python -m tools.tables.\n")


if __name__ == "__main__":
    main()
