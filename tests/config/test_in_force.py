"""A run's `config.toml` holds everything in force, and means the same from any folder."""

from dataclasses import replace
from pathlib import Path

from library.config.files import TomlFile, read_settings
from library.config.in_force import in_force, with_absolute_paths


def test_what_is_in_force_is_read_as_the_same_settings(plan_of, tmp_path):
    plan = plan_of(overwrite=True, network_dim=3)
    (tmp_path / "config.toml").write_text(in_force(plan.settings, plan.config))
    again = read_settings(TomlFile(tmp_path / "config.toml"))
    assert again == replace(plan.settings, saving=replace(plan.settings.saving, overwrite=False))


def test_paths_are_absolute_and_models_of_the_hub_stay_as_they_are(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    tables = {"network": {"base_weights": ["a"]}, "model": {"pretrained_model_name_or_path": "owner/model"}}
    found = with_absolute_paths(tables)
    assert found["network"]["base_weights"] == [str(Path.cwd() / "a")]
    assert found["model"] == tables["model"]
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert with_absolute_paths(tables)["model"] == {"pretrained_model_name_or_path": str(tmp_path / "owner" / "model")}
