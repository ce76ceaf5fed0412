"""Everything in force as one TOML file, which runs as it is from any folder: what `config.toml` of a run holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from library.config import dataset
from library.config.dataset import DatasetConfig
from library.config.files import as_tables, to_toml
from library.config.metadata_settings import DATA_URL
from library.config.settings import Settings

HUB_OR_PATH, THUMBNAIL = "pretrained_model_name_or_path", "metadata_thumbnail"
PATH_LISTS = (("method", "previous_loras"), ("network", "base_weights"))
"""Settings that are lists of paths."""
PATH_SETTINGS = (
    ("model", HUB_OR_PATH),
    ("model", "clip_l"),
    ("model", "clip_g"),
    ("model", "t5xxl"),
    ("model", "vae"),
    ("data", "train_data_dir"),
    ("data", "reg_data_dir"),
    ("network", "network_weights"),
    ("saving", "cache_dir"),
    ("saving", "logging_dir"),
    ("saving", "log_tracker_config"),
    ("saving", "output_dir"),
    ("metadata", THUMBNAIL),
    ("samples", "sample_prompts"),
    ("samples", "audit_prompts"),
    ("pure_learning", "replay_prompts"),
    ("pure_learning", "extractor"),
)
"""Settings that are paths, which become absolute."""
OF_ONE_START = ("resume", "overwrite")
"""Settings of [saving] that are about how a run is started, not about the run."""


def in_force(settings: Settings, config: DatasetConfig) -> str:
    """The TOML: every setting that is set or has a default, and the data set with all that holds for it."""
    tables = as_tables(settings)
    tables["data"].pop("dataset_config", None)
    for name in OF_ONE_START:
        tables["saving"].pop(name, None)
    tables = with_absolute_paths(tables)
    return "\n".join([to_toml(tables), to_toml(dataset.as_tables(config))])


def with_absolute_paths(tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Tables of settings whose paths mean the same from any folder."""
    found = {section: dict(values) for section, values in tables.items()}
    for section, name in PATH_SETTINGS:
        values = found.get(section, {})
        if name in values and not _is_no_path(name, values[name]):
            values[name] = _absolute(values[name])
    for section, name in PATH_LISTS:
        if name in found.get(section, {}):
            found[section][name] = [_absolute(path) for path in found[section][name]]
    return found


def _is_no_path(name: str, value: str) -> bool:
    """Whether it is a model of the hub, or the picture itself."""
    if name == HUB_OR_PATH:
        return not Path(value).expanduser().exists()
    return name == THUMBNAIL and value.startswith(DATA_URL)


def _absolute(path: Any) -> str:
    return str(Path(path).expanduser().resolve())
