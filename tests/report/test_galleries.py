"""Which sheets a resumed run still shows: the last of each kind from before it stopped."""

import torch

from library.predictions import EXTRACTOR, STUDENT
from library.report.galleries import galleries_of
from library.report.sheet import SheetRow, save_sheet


def drawn(folder, file):
    folder.mkdir(exist_ok=True)
    columns = ["pretrained, seed 1", "student, seed 1", "pretrained, seed 2", "student, seed 2"]
    save_sheet(folder / file, file, columns, [SheetRow("concept", "a dog", [torch.zeros(3, 32, 32)] * 4)])


def test_the_student_is_shown_as_it_was_at_the_step_that_the_run_continues_from(tmp_path):
    for step in (50, 100, 150):
        drawn(tmp_path, f"student_{step:06d}.png")
    (gallery,) = galleries_of(tmp_path, {STUDENT: 120}).values()
    assert gallery.title == "student_000100.png" and gallery.columns == ["pretrained", "student"]
    assert galleries_of(tmp_path, {STUDENT: 49}) == {}


def test_the_extractor_is_shown_once_it_has_learned(tmp_path):
    drawn(tmp_path, "extractor.png")
    assert galleries_of(tmp_path, {}) == {}
    assert set(galleries_of(tmp_path, {EXTRACTOR: 200})) == {EXTRACTOR}


def test_a_run_without_sheets_shows_none(tmp_path):
    assert galleries_of(tmp_path / "samples", {STUDENT: 10}) == {}
