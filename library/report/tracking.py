"""The trackers that a run's settings ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from library.config.files import TomlFile, as_tables
from library.config.settings import SavingSettings, Settings
from library.errors import ConfigError, naming
from library.report.trackers import Tracking, check_trackers


def tracking_of(settings: Settings) -> Tracking:
    """Where the values of a run go besides its log.

    Raises:
        ConfigError: a tracker is not installed, or `log_tracker_config` is not such a file.
    """
    saving, model = settings.saving, settings.model
    check_trackers(saving.log_with)
    return Tracking(
        log_with=saving.log_with,
        events=events_of(saving),
        project=saving.log_tracker_name,
        name=saving.wandb_run_name or saving.output_name,
        offline=model.offline,
        arguments=_arguments(saving.log_tracker_config),
        config=as_tables(settings) if saving.log_config else None,
    )


def events_of(saving: SavingSettings) -> Path:
    """Folder of TensorBoard's events, relative to the output folder."""
    own = f"{saving.log_prefix or ''}{saving.output_name}"
    return Path(saving.logging_dir).expanduser().resolve() / own if saving.logging_dir else Path("tensorboard")


def _arguments(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    with naming("log_tracker_config"):
        table = TomlFile(path).tables.get("wandb", {})
    if not isinstance(table, dict):
        raise ConfigError(
            f"log_tracker_config: in {path}, wandb is not a table.", "Write [wandb], and its arguments below."
        )
    return table
