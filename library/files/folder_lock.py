"""One run at a time in a folder. The system releases a lock when its process ends, so none can be left behind."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from library.errors import ConfigError
from library.files.atomic import TEMPORARY, InUse, remove, said_if_not_written, write_text

LOCK, HOLDER = ".lock", ".lock.json"
"""The locked file, and a file that names its holder; the second one alone means nothing."""


class FolderLock:
    """Holds a folder while the `with` block runs.

    Args:
        folder: made if it is not there.

    Raises:
        ConfigError: another process holds it.
        StorageError: the folder can't be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / LOCK)

    def __enter__(self) -> FolderLock:
        since = datetime.now().isoformat(" ", "seconds")
        try:
            with said_if_not_written(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"{self.folder.absolute()} is in use by another run{self._who()}.",
                "Wait for it, stop it, or choose another output_dir for this run.",
            ) from None
        for unfinished in [*self.folder.glob(f"{TEMPORARY}*"), *self.folder.glob(f"*/{TEMPORARY}*")]:
            remove(unfinished)  # files that a killed run left half written
        holder = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
        with suppress(InUse):
            write_text(self.folder / HOLDER, json.dumps(holder), durable=False)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        remove(self.folder / HOLDER)
        self._lock.release()

    def _who(self) -> str:
        try:
            holder = json.loads((self.folder / HOLDER).read_text(encoding="utf-8"))
            return f" (process {holder['process']} on {holder['host']}, since {holder['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return ""
