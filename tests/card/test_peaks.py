"""The memory forecast agrees with the allocator's simulation on a pretended GPU."""

from benchmarks.peaks import COMPARED, measure
from tests.helpers.places import ROOT

SMALL = {"blocks": 3, "resolution": 256, "checkpointed_blocks": 2, "eta": 0.5}
"""Both stages on the first three blocks of the full-size model, at its full width."""


def peaks_of_a_preset():
    return measure(ROOT / "presets" / "sd35m_8gb.toml", SMALL)


def test_the_forecast_is_within_five_percent_of_the_simulation(process):
    rows = process(peaks_of_a_preset)
    assert [row["phase"] for row in rows] == list(COMPARED)
    off = {row["phase"]: row["off"] for row in rows}
    assert max(map(abs, off.values())) < 5, off
