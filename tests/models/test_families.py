"""The interface for families of models: what is specific to one is only in its own rooms."""

import re

import pytest

from library.models.family import register
from library.models.opening import FAMILIES
from library.models.sd3.family import SD3
from tests.helpers.modules import FILES
from tests.helpers.places import ROOT

WORDS = re.compile(
    r"\bCLIPs?\b|\bCLIP-[LG]\b|clip_[lg]\b|\"clip\"|clip_and_t5|\b[tT]5|SD3|\bsd3|joint_blocks|(?<!single_)transformer_blocks"
    r"|pos_embed|caption_projection_dim|joint_attention_dim|pooled_projection|qk_norm|dual_attention|context_embedder"
    r"|num_layers|num_attention_heads|transformer_config"
)
ROOMS = ("models/sd3/",)
"""Where Stable Diffusion 3 lives."""
OF_OTHERS = {
    "config/kohya/": "settings of sd-scripts, which names CLIP, T5 and its LoRA for SD3",
    "importers/": "settings files of other trainers, whose keys name them",
    "evaluation/scorers/": "scorers, which are CLIPs of their own",
    "evaluation/results.py": "names of these scorers",
}
"""Files that say a family's words of something else, each with what that is."""


def inside(name: str, places: tuple[str, ...]) -> bool:
    return name.startswith(places)


def test_no_word_of_a_family_stands_outside_its_rooms():
    names = {path.relative_to(ROOT / "library").as_posix(): path for path in FILES}
    found = {
        name: sorted(set(WORDS.findall(path.read_text())))
        for name, path in names.items()
        if not inside(name, (*ROOMS, *OF_OTHERS))
    }
    said = {name: words for name, words in found.items() if words}
    assert not said


def test_the_rooms_of_a_family_are_what_the_rule_is_about():
    """The rule finds the words where they belong."""
    for room in ROOMS:
        texts = [path.read_text() for path in FILES if inside(path.relative_to(ROOT / "library").as_posix(), (room,))]
        assert any(WORDS.search(text) for text in texts), room


def test_a_family_registers_once():
    assert FAMILIES["sd3"] is SD3
    with pytest.raises(ValueError, match="there is a family sd3 of StableDiffusion3Pipeline already"):
        register(SD3)
