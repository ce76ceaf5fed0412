"""Bars on a terminal, occasional lines where bars can't be redrawn, and curves of any log."""

import re
import sys

from library.report import progress
from library.report.log import write_csv
from library.report.plot import plot_log
from library.report.progress import StageBar, bar_over
from library.report.status import Status, read_status


def test_a_bar_is_an_occasional_line_where_nothing_can_be_drawn_over(capsys, monkeypatch):
    def lines_of_500_steps(seconds_between: float) -> list[str]:
        monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", seconds_between)
        bar = StageBar("extractor", 500, 0)
        for _ in range(500):
            bar.step({"concept": 0.5})
        bar.close()
        assert [*bar_over("latents")(range(500))] == [*range(500)]
        said = capsys.readouterr().err
        assert "\r" not in said and "\x1b" not in said
        return said.splitlines()

    begin, end = lines_of_500_steps(1e9)
    assert "extractor:   0% 0/500 " in begin and re.search(r"extractor: 100% 500/500 .*cc=0\.5", end)
    every = lines_of_500_steps(0.0)
    assert all(f" {step}/500 " in line for step, line in zip(range(501), every, strict=False))


def test_a_bar_is_drawn_over_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = StageBar("extractor", 5, 0)
    bar.step({})
    bar.close()
    assert "\r" in capsys.readouterr().err


def test_a_log_of_nothing_but_skipped_steps_can_be_drawn(tmp_path):
    rows = [{"stage": "student", "step": step, "skipped": "the loss is nan", "it_s": 1.0} for step in (1, 2)]
    plot_log(rows, tmp_path / "training.png")
    write_csv(rows, tmp_path / "log.csv")
    assert (tmp_path / "log.csv").read_text().splitlines()[1] == "student,1,the loss is nan,1.0"
    status = Status(tmp_path, "run", {"student": 2})
    for row in rows:
        status.step(row, 1.0)
    assert read_status(tmp_path)["last"] == {"it_s": 1.0}
