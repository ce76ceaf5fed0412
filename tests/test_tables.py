"""Tables of measurements come from docs/measured, are on one page each, and are never typed by hand."""

import json
import re
from itertools import groupby

import pytest

from benchmarks.record import KINDS
from tests.helpers.places import ROOT
from tools import tables

NAMES = sorted(str(file.relative_to(tables.MEASURED).with_suffix("")) for file in tables.MEASURED.rglob("*.json"))
UNITS = "%|GiB|GB|MB|ms|min|s|h|x|dB"
NUMBER = re.compile(rf"\**[-+]?(\d[\d ]*)?\.?\d+ ?({UNITS})?( \([^)]*\))?([;/ ]+-?\.?\d\S*)*\**")
"""A cell that is a measured number, with its unit and interval."""
BY_HAND = {
    "docs/bench/tables.md": "written whole by benchmarks.method report",
    "docs/bench/together-tables.md": "written whole by benchmarks.method.together report",
    "docs/bench/with-vectors/together-tables.md": "the same, with earlier defaults",
    "docs/bench/with-vectors/tables.md": "written whole by benchmarks.method report, when it had more methods",
    "docs/dev/decisions.md": "numbers of throw-away scripts, which the page marks as directions",
    "docs/explanation/evaluation.md": "the values that the measures should have",
    "docs/explanation/report-card.md": "the limits of the grades, which are settings and not measured",
    "docs/how-to/write-captions.md": "sizes of published models",
    "docs/pocket/README.md": "written with the model by tools.pocket evaluate",
}
"""Pages with tables of numbers outside the places, and why."""


def tables_in(text: str) -> list[list[str]]:
    """The tables of a page outside the marked places, line by line, without headers."""
    lines = tables.PLACE.sub("", re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)).splitlines()
    runs = [list(run) for is_row, run in groupby(lines, lambda line: line.lstrip().startswith("|")) if is_row]
    return [run[2:] for run in runs]


def is_measured(rows: list[str]) -> bool:
    """Whether two rows of a table have numbers after the first column."""
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip()[1:-1])][1:] for row in rows]
    return sum(any(NUMBER.fullmatch(cell) for cell in row) for row in cells) >= 2


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_what_was_measured(page):
    text = page.read_text(encoding="utf-8")
    assert tables.filled(text) == text, "python -m tools.tables writes it"


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_table_of_measurements_is_typed_by_hand(page):
    found = any(is_measured(rows) for rows in tables_in(page.read_text(encoding="utf-8")))
    assert found == (str(page.relative_to(ROOT)) in BY_HAND)


def test_a_table_of_measurements_is_known_by_its_numbers():
    head = ["| method | drift |", "|---|---|"]
    numbers, words = ["| a | .12 (.1 to .2) |", "| b | **3.4 GiB** |"], ["| a | 1 |", "| b | turns it off |"]
    text = "\n".join([*head, *numbers, "", *head, *words])
    assert [is_measured(rows) for rows in tables_in(text)] == [True, False]
    assert tables_in(f"<!-- measured: x -->\n{text}\n<!-- end -->\n") == []


def test_each_measurement_is_shown_on_one_page():
    shown = [(place, page) for page in tables.pages() for place in tables.shown_on(page)]
    assert len({place for place, _ in shown}) == len(shown)
    homes = {(place.partition(",")[0], page) for place, page in shown}
    assert sorted(name for name, _ in homes) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_measurement_says_where_it_comes_from(name):
    result = json.loads((tables.MEASURED / f"{name}.json").read_text(encoding="utf-8"))
    assert result["kind"] in KINDS and result["command"] and result["title"]
    assert result["kind"] == "transcribed" or result["commit"] != "unknown"
    assert result["rows"] and all(set(result["columns"]) & set(row) for row in result["rows"])


def test_a_place_is_filled_with_the_rows_that_it_asks_for(tmp_path):
    rows = [{"size": 512, "ms": 3.0, "best": [1, 2]}, {"size": 1024, "ms": 12.5}]
    columns = {"size": "pixels", "ms": "ms", "best": "quartiles", "never": "never"}
    about = {"title": "t", "kind": "transcribed", "command": "x", "columns": columns, "formats": {"ms": ".1f"}}
    (tmp_path / "step.json").write_text(json.dumps({**about, "rows": rows}))
    page = "before\n  <!-- measured: step, size = 1024 -->\n  old\n  <!-- end -->\nafter\n"
    table = "  | ms |\n  |---|\n  | 12.5 |\n\n  From an earlier run of `x`.\n"
    assert tables.filled(page, tmp_path) == page.replace("  old\n", table)
    whole = tables.filled("<!-- measured: step -->\n<!-- end -->\n", tmp_path)
    assert "| 512 | 3.0 | 1 to 2 |\n| 1024 | 12.5 |  |" in whole and tables.filled(whole, tmp_path) == whole


def test_a_page_that_is_out_of_date_is_named(tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    page.write_text("<!-- measured: promise -->\n| old |\n<!-- end -->\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["tables", "--check"])
    with pytest.raises(SystemExit) as end:
        tables.main()
    assert end.value.code == 1 and "README.md: out of date" in capsys.readouterr().out and "old" in page.read_text()
    monkeypatch.setattr("sys.argv", ["tables"])
    tables.main()
    assert "old" not in page.read_text() and "Seg-Cons" in page.read_text()
