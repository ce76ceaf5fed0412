"""What a resumed run reports about pictures and captions that have changed since it stopped."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from library.data.same_pictures import note_pictures
from library.prompts import PromptTriple


@dataclass(frozen=True)
class Shown:
    """A picture, with only what is needed here."""

    path: Path
    pixels: str = "pixels"
    prompts: tuple[PromptTriple, ...] = (PromptTriple("a [V] dog", "a dog", "a [V] dog", "a dog"),)


class OfPixels:
    """Latents that are stored by their pixels."""

    def place(self, picture: Shown) -> str:
        return picture.pixels


ONE, TWO = Shown(Path("1.png")), Shown(Path("2.png"))
RED = replace(TWO, pixels="red")


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ([ONE, TWO], None),
        ([ONE], "2.png (gone)"),
        ([ONE, TWO, Shown(Path("3.png"))], "3.png (new)"),
        ([ONE, RED], "2.png (picture)"),
        ([ONE, replace(RED, prompts=())], "2.png (picture and captions)"),
    ],
    ids=str,
)
def test_a_resumed_run_says_what_has_changed_and_a_new_one_nothing(tmp_path, capsys, now, said):
    note_pictures(tmp_path, [ONE, TWO], OfPixels(), resumed=False)
    note_pictures(tmp_path, now, OfPixels(), resumed=True)
    found = capsys.readouterr().err
    assert said in found if said else not found
    note_pictures(tmp_path, [ONE, TWO], OfPixels(), resumed=False)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("harm", ["", "[1]", '{"1.png": 5}', "[" * 5000])
def test_an_unreadable_list_is_written_again(tmp_path, capsys, harm):
    (tmp_path / "pictures.json").write_text(harm)
    note_pictures(tmp_path, [ONE], OfPixels(), resumed=True)
    assert not capsys.readouterr().err
    note_pictures(tmp_path, [], OfPixels(), resumed=True)
    assert "1.png (gone)" in capsys.readouterr().err
