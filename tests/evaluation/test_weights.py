"""The command `weights`: every scorer, where its files belong, and whether they exist."""

from library.evaluation.scorers.catalogue import PAPER, SCORERS
from library.evaluation.weights import run


def test_every_scorer_is_listed_with_its_folder_licence_and_state(tmp_path):
    said = run(["--weights_dir", str(tmp_path)])
    for entry in SCORERS.values():
        asked = "by default" if entry.name in PAPER else "by --scorers"
        assert f"{entry.name} ({asked}): " in said and entry.licence in said
        assert f"{entry.folder_in(tmp_path)}: " in said
    assert "ready" not in said
