"""Where a run's values go besides its own log: TensorBoard, and optionally Weights & Biases."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from library.errors import ConfigError
from library.files.atomic import write_text
from library.files.picture_files import opened

WANDB_ID = "wandb_run.json"
"""Holds the run's name at wandb, so that a resumed run continues in the same curves."""
TRACKERS = {"tensorboard": ("tensorboard",), "wandb": ("wandb",), "all": ("tensorboard", "wandb"), "none": ()}
"""What each value of `log_with` means."""


@dataclass(frozen=True)
class Tracking:
    """What is tracked where.

    Args:
        log_with: a key of `TRACKERS`.
        events: folder of TensorBoard's events.
        project, name: of the run at wandb.
        offline: wandb only writes files, for `wandb sync`.
        arguments: more of `wandb.init`.
        config: the settings, if they are sent, too.
    """

    log_with: str = "none"
    events: Path = Path("tensorboard")
    project: str = "purecc"
    name: str = ""
    offline: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None


class Tracker(Protocol):
    """Something that values are sent to."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Values of a step; steps count through all stages."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """A contact sheet."""

    def close(self) -> None:
        """Everything is sent."""


def check_trackers(log_with: str) -> None:
    """Checks that the trackers are installed, before anything is computed.

    Raises:
        ConfigError: wandb is wanted and not installed.
    """
    if "wandb" in TRACKERS[log_with] and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            f'log_with is "{log_with}", but the package wandb is not installed.',
            'Install it with "pip install wandb", or set log_with = "tensorboard".',
        )


def trackers_of(tracking: Tracking, folder: Path, first: int | None) -> list[Tracker]:
    """The trackers of a run.

    Args:
        folder: of the run's results.
        first: the step that a resumed run makes first; None: a new run.
    """
    kinds: dict[str, Callable[[Tracking, Path, int | None], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}
    return [kinds[kind](tracking, folder, first) for kind in TRACKERS[tracking.log_with]]


class TensorBoard:
    """Writes TensorBoard events; a resumed run's later ones, which it makes again, are dropped."""

    def __init__(self, tracking: Tracking, folder: Path, first: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(folder / tracking.events), purge_step=first)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """See `Tracker`."""
        import numpy as np

        pixels = opened(path, lambda image: np.asarray(image.convert("RGB")))
        self._events.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """See `Tracker`."""
        self._events.close()


class WandB:
    """Sends values to Weights & Biases, or keeps them for `wandb sync`.

    Raises:
        ConfigError: wandb does not start the run, for example without a login.
    """

    def __init__(self, tracking: Tracking, folder: Path, first: int | None) -> None:
        import wandb

        self._wandb, file = wandb, folder / WANDB_ID
        given = {
            "project": tracking.project,
            "name": tracking.name,
            "dir": str(folder),
            "id": None if first is None else _id_in(file),
            "resume": "allow",
            "config": None if tracking.config is None else dict(tracking.config),
            **({"mode": "offline"} if tracking.offline else {}),
            **tracking.arguments,
        }
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            self._run = wandb.init(**given)
        except Exception as error:  # its own errors, network errors, and unknown arguments
            raise ConfigError(
                f"wandb can't start the run: {error}.",
                'Log in with "wandb login", set offline = true, or log_with = "tensorboard".',
            ) from error
        write_text(file, json.dumps({"id": self._run.id}) + "\n")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """See `Tracker`."""
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


def _id_in(file: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(file.read_text(encoding="utf-8"))["id"])
    return None
