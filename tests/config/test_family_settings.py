"""Files, command line, help and remedies know the settings of a family of models."""

from dataclasses import dataclass

import pytest

from library.config.family_settings import FAMILY_SETTINGS, FamilySettings, bring, own_part
from library.config.fields import setting
from library.config.files import add_settings_to, command_line_parser, read_settings, settings_given
from library.config.groups import groups, setting_names
from library.config.model_settings import ModelSettings
from library.config.synonyms import meant
from library.errors import ConfigError

FIRST = {"pretrained_model_name_or_path": "m"}


@dataclass(frozen=True, kw_only=True)
class ToyModelSettings:
    """In [model]: the toy's."""

    toy_length: int = setting(12, "Number of tokens that the toy reads.", at_least=1)


@pytest.fixture
def toy():
    """The settings of a second family, during the test."""
    sections = {"model": ToyModelSettings}
    brought = FamilySettings(
        family="toy",
        sections=sections,
        often_changed=("toy_length",),
        synonyms={"toy_length": "toy_tokens"},
        layouts={"toys": "the viewer"},
        attention=("to_toy", "to_other"),
        text_attention=("to_toy",),
    )
    try:
        yield bring(brought)
    finally:
        del FAMILY_SETTINGS["toy"]


def test_a_setting_of_a_family_is_read_and_checked_like_any_other(toy):
    assert setting_names()["toy_length"] == "model"
    assert own_part(read_settings(None, FIRST).model, ToyModelSettings).toy_length == 12
    assert own_part(read_settings(None, {**FIRST, "toy_length": 3}).model, ToyModelSettings).toy_length == 3
    with pytest.raises(ConfigError, match="toy_length is 0; it must be at least 1"):
        read_settings(None, {**FIRST, "toy_length": 0})


def test_it_is_an_option_with_its_sentence_as_help(toy):
    parser = command_line_parser("About.")

    add_settings_to(parser)
    assert "Number of tokens that the toy reads." in " ".join(parser.format_help().split())
    assert settings_given(parser.parse_args(["--toy_length", "4"])) == {"toy_length": 4}


def test_other_trainers_names_for_it_are_answered_by_its_own(toy):
    assert meant("toy_tokens", setting_names()) == 'Did you mean "toy_length"?'


def test_its_layouts_can_be_saved_and_its_text_layers_get_a_lora(toy):
    settings = read_settings(None, {**FIRST, "save_formats": ["toys"]})
    assert settings.saving.save_formats == ["toys"]
    assert "to_toy" in settings.network.target_modules and "to_other" not in settings.network.target_modules
    with pytest.raises(ConfigError, match="toys"):
        read_settings(None, {**FIRST, "save_formats": ["toy"]})


def test_what_a_family_brought_is_gone_with_it():
    assert "toy_length" not in setting_names()
    with pytest.raises(ConfigError, match=r"save_formats is \['toys'\]"):
        read_settings(None, {**FIRST, "save_formats": ["toys"]})


def test_settings_are_brought_once(toy):
    with pytest.raises(ValueError, match="the settings of toy are known already"):
        bring(toy)
    with pytest.raises(ValueError, match="other: the setting toy_length already exists"):
        bring(FamilySettings(family="other", sections={"model": ToyModelSettings}))


def test_a_family_takes_no_name_that_everybody_has():
    @dataclass(frozen=True, kw_only=True)
    class Twice:
        """In [model]: a name that is taken."""

        device: str = setting("auto", "A device.")

    bring(FamilySettings(family="twice", sections={"model": Twice}))
    try:
        with pytest.raises(ValueError, match="Twice: the setting device already exists"):
            groups()
    finally:
        del FAMILY_SETTINGS["twice"]


def test_settings_that_were_read_without_a_family_lack_its_part():
    with pytest.raises(TypeError, match="the settings lack ToyModelSettings"):
        own_part(ModelSettings(**FIRST), ToyModelSettings)
