"""The note of a finished run: what it says about existing files, and about a run that will be longer."""

import pytest

from library.config.saving_settings import SavingSettings
from library.errors import ConfigError
from library.saving.finished import finished, forget_finished, note_finished

SHAPING = {"network_dim": 16, "max_train_steps": 400}


@pytest.fixture
def saving(tmp_path):
    return SavingSettings(output_dir=str(tmp_path), output_name="dog")


def test_a_run_is_all_there_while_its_files_are_and_no_more_steps_are_asked_for(saving, tmp_path):
    file = tmp_path / "dog.safetensors"
    file.touch()
    note_finished(saving, 400, SHAPING, [file])
    note = finished(saving, {**SHAPING, "max_train_steps": 500})
    assert note.is_all(tmp_path, 400) and note.is_all(tmp_path, 300) and not note.is_all(tmp_path, 500)
    file.unlink()
    assert not note.is_all(tmp_path, 400)


def test_a_finished_run_of_other_settings_is_not_this_one(saving):
    note_finished(saving, 400, SHAPING, [])
    with pytest.raises(ConfigError, match="network_dim"):
        finished(saving, {**SHAPING, "network_dim": 8})


@pytest.mark.parametrize("text", ["", "[]", '{"steps": 3}', "[" * 9999])
def test_a_damaged_note_is_none(saving, tmp_path, text):
    (tmp_path / "dog-done.json").write_text(text)
    assert finished(saving, SHAPING) is None


def test_what_is_forgotten_is_gone(saving):
    note_finished(saving, 400, SHAPING, [])
    forget_finished(saving)
    forget_finished(saving)
    assert finished(saving, SHAPING) is None
