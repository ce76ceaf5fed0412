"""When a cache shrinks: a command that is its only user removes what was least recently used."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from library.errors import ConfigError
from library.files.atomic import TEMPORARY, remove, said_if_not_written

USERS, GATE = ".users", ".lock"
"""Folder with a file for each command that uses the cache, locked while it does, and who may change that at a time."""
PATIENCE = 60.0
"""Seconds to wait for another process that is just starting or ending."""
PLACE = re.compile(r"[a-z_ ]+/[0-9a-f]{2}/[0-9a-f]{64}\.safetensors")
"""The names of the cache's own files; nothing else in its folder is ever touched."""


@dataclass(frozen=True)
class CachedFile:
    """A file of the cache."""

    path: Path
    size: int
    used: float
    """When it was last read or written."""


class CacheUse:
    """Marks a cache as used while the `with` block runs, so that no other command removes what this one needs.

    When the block ends, and nobody else uses the cache, it shrinks to its limit. A read-only folder is used as it is.

    Args:
        folder: of the cache.
        limit: bytes; None: no limit.
        anew: empties the cache before the block.

    Attributes:
        cleared: bytes removed before the block.

    Raises:
        ConfigError: it is to be thrown away, and another run uses it.
        StorageError: it should be emptied, but is read-only.
    """

    def __init__(self, folder: str | Path, limit: int | None = None, anew: bool = False) -> None:
        self.folder = Path(folder).expanduser()
        self.limit = limit
        self.anew = anew
        self.cleared = 0
        self._mine: FileLock | None = None

    def __enter__(self) -> CacheUse:
        with said_if_not_written(self.folder) if self.anew else contextlib.suppress(OSError, Timeout), self._gate():
            if self.anew:
                self._clear()
            (self.folder / USERS).mkdir(exist_ok=True)
            lock = FileLock(self.folder / USERS / f"{uuid.uuid4().hex}.lock")
            lock.acquire(timeout=0)
            self._mine = lock
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._mine is None:
            return
        with contextlib.suppress(OSError, Timeout), self._gate():
            self._mine.release()
            remove(Path(self._mine.lock_file))
            if not self._in_use():
                _remove_unfinished(self.folder)
                if self.limit is not None:
                    shrink(self.folder, self.limit)

    def _clear(self) -> None:
        if self._in_use():
            raise ConfigError(
                f"--clear_cache: another command is using the cache {self.folder.absolute()}.",
                "Wait for it, stop it, or choose another cache_dir for this run.",
            )
        self.cleared = sum(entry.size for entry in entries(self.folder))
        shrink(self.folder, 0)
        _remove_unfinished(self.folder)

    @contextlib.contextmanager
    def _gate(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / GATE, timeout=PATIENCE):
            yield

    def _in_use(self) -> bool:
        """Whether a process uses the cache; what killed ones have left to say so goes."""
        for file in (self.folder / USERS).glob("*.lock"):
            try:
                with FileLock(file, timeout=0):
                    pass
            except Timeout:
                return True
            remove(file)
        return False


def entries(folder: Path) -> list[CachedFile]:
    """The files of a cache, least recently used first."""
    found = []
    for path in folder.glob("*/??/*.safetensors"):
        with contextlib.suppress(OSError):
            if PLACE.fullmatch(path.relative_to(folder).as_posix()):
                about = path.stat()
                found.append(CachedFile(path, about.st_size, about.st_mtime))
    return sorted(found, key=lambda entry: entry.used)


def shrink(folder: Path, limit: int) -> None:
    """Removes the least recently used files until a cache has at most N bytes."""
    found = entries(folder)
    over = sum(entry.size for entry in found) - limit
    for entry in found:
        if over <= 0:
            return
        with contextlib.suppress(OSError):  # such as a file that Windows has open
            entry.path.unlink()
            over -= entry.size


def _remove_unfinished(folder: Path) -> None:
    """Removes files that killed runs left half written."""
    for path in folder.glob(f"*/??/{TEMPORARY}*"):
        remove(path)
