"""Replayed pictures: their prompts, and how many are drawn at once."""

from types import SimpleNamespace

import pytest

from library.prepare.replay import MOST_AT_ONCE, pictures_at_once, replay_texts
from tests.helpers.datasets import DOG, INK


def texts(tmp_path, lines: str, count: int, *concepts):
    (tmp_path / "replay.txt").write_text(lines)
    pure = SimpleNamespace(replay_prompts=str(tmp_path / "replay.txt"), replay_images=count)
    parts = SimpleNamespace(settings=SimpleNamespace(pure_learning=pure), concepts=list(concepts))
    return [(concept.name, triple) for concept, triple in replay_texts(parts)]


def test_half_of_the_pictures_show_the_class_and_the_lists_start_again(tmp_path):
    found = texts(tmp_path, "a red {class}\na blue house\na green {class}\n", 6, DOG)
    bases = ["a red dog", "a blue house", "a green dog", "a blue house", "a red dog", "a blue house"]
    assert [triple.base for _, triple in found] == bases
    for _, triple in found:
        assert (triple.complete == triple.base) is ("dog" not in triple.base), "no place for [V] without the class"


def test_concepts_take_turns(tmp_path):
    found = texts(tmp_path, "a {class}\na house\n", 4, DOG, INK)
    assert [name for name, _ in found] == ["dog", "dog", "ink", "ink"]


@pytest.mark.parametrize(("side", "most"), [(8, MOST_AT_ONCE), (4096, 1)])
def test_small_pictures_are_drawn_many_at_once_and_huge_ones_one_by_one(side, most):
    assert pictures_at_once((16, side, side)) == most
