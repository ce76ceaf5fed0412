"""Everything in force as one TOML file that runs from any folder: a run's `config.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from library.config import dataset
from library.config.dataset import DatasetConfig
from library.config.files import as_tables, to_toml
from library.config.groups import paths
from library.config.metadata_settings import DATA_URL
from library.config.settings import Settings

HUB_OR_PATH, THUMBNAIL = "pretrained_model_name_or_path", "metadata_thumbnail"
OF_ONE_START = ("resume", "overwrite")
"""Settings of [saving] for how a run is started, not for the run itself."""


def in_force(settings: Settings, config: DatasetConfig) -> str:
    """The TOML: every setting that is set or has a default, and the data set with all of its values."""
    tables = as_tables(settings)
    tables["data"].pop("dataset_config", None)
    for name in OF_ONE_START:
        tables["saving"].pop(name, None)
    tables = with_absolute_paths(tables)
    return "\n".join([to_toml(tables), to_toml(dataset.as_tables(config))])


def with_absolute_paths(tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Tables of settings whose paths mean the same from any folder."""
    known = paths()
    return {
        section: {name: _from_anywhere(name, value) if name in known else value for name, value in values.items()}
        for section, values in tables.items()
    }


def _from_anywhere(name: str, value: Any) -> Any:
    """A path, or each of a list of them, absolute."""
    if isinstance(value, list):
        return [_absolute(path) for path in value]
    return value if _is_no_path(name, value) else _absolute(value)


def _is_no_path(name: str, value: str) -> bool:
    """Whether it is a model on the hub, or the picture itself."""
    if name == HUB_OR_PATH:
        return not Path(value).expanduser().exists()
    return name == THUMBNAIL and value.startswith(DATA_URL)


def _absolute(path: Any) -> str:
    return str(Path(path).expanduser().resolve())
