"""The door for families of models: what is particular to one is written in its own rooms alone."""

import re

import pytest

from library.models import FAMILIES
from library.models.family import register
from library.models.sd3.family import SD3
from tests.helpers.modules import FILES
from tests.helpers.places import ROOT

WORDS = re.compile(
    r"\bCLIPs?\b|\bCLIP-[LG]\b|clip_[lg]\b|\"clip\"|clip_and_t5|\b[tT]5|SD3|\bsd3|joint_blocks|(?<!single_)transformer_blocks"
    r"|pos_embed|caption_projection_dim|joint_attention_dim|pooled_projection|qk_norm|dual_attention|context_embedder"
    r"|num_layers|num_attention_heads|transformer_config"
)
ROOMS = ("models/sd3/", "adapters/layouts/", "adapters/uis/rules.py", "adapters/uis/shape.py")
"""Where Stable Diffusion 3 lives."""
OF_OTHERS = ("config/kohya/", "importers/", "evaluation/scorers/", "evaluation/results.py")
"""Settings of other programs, and scorers, which are CLIPs of their own."""
LEFT = {
    "config/model_settings.py": "settings that kohya's users know",
    "config/data_settings.py": "settings that kohya's users know",
    "config/synonyms.py": "settings that kohya's users know",
    "config/files.py": "the settings that --help shows",
    "config/settings.py": "embedding_positions names the streams",
    "config/context_settings.py": "help of a setting",
    "config/sample_settings.py": "help of a setting",
    "methods/reads.py": "the settings of dropout",
    "methods/textual_inversion.py": "says what is ported",
    "methods/dreambooth.py": "says what is ported",
    "methods/lora.py": "says what is ported",
    "models/loading/what_file.py": "names files of every family by their headers",
    "adapters/files.py": "the rule in the metadata of concept files, which ComfyUI's nodes follow",
    "captions/source.py": "counts tokens before any model is chosen",
    "convert/bake.py": "puts a LoRA into a checkpoint in the original's layout",
    "convert/resize.py": "fuses q, k and v as kohya's layout does",
}
"""Files that still know the family, and why; the list may only shrink."""


def inside(name: str, places: tuple[str, ...]) -> bool:
    return name.startswith(places)


def test_no_word_of_a_family_stands_outside_its_rooms():
    names = {path.relative_to(ROOT / "library").as_posix(): path for path in FILES}
    found = {
        name: sorted(set(WORDS.findall(path.read_text())))
        for name, path in names.items()
        if not inside(name, ROOMS + OF_OTHERS)
    }
    said = {name for name, words in found.items() if words}
    assert said - set(LEFT) == set(), {name: found[name] for name in said - set(LEFT)}
    assert set(LEFT) - said == set(), "these know no family any more: take them off the list"


def test_the_rooms_of_a_family_are_what_the_rule_is_about():
    """The rule finds the words where they are meant to be."""
    for room in ROOMS:
        texts = [path.read_text() for path in FILES if inside(path.relative_to(ROOT / "library").as_posix(), (room,))]
        assert any(WORDS.search(text) for text in texts), room


def test_a_family_registers_once():
    assert FAMILIES["sd3"] is SD3
    with pytest.raises(ValueError, match="there is a family sd3 of StableDiffusion3Pipeline already"):
        register(SD3)
