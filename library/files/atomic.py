"""Files that are complete or absent, even if the run is killed or the disk is full.

Windows can't replace a file that another program has open, even for a moment: an antivirus, an indexer, OneDrive,
a table in a spreadsheet, a UI with the previous LoRA. So a move is retried for a while; then the file is saved next to
it.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep

from safetensors import SafetensorError
from torch import Tensor

from library.errors import StorageError, not_written
from library.files.tensor_storage import save_tensors
from library.terminal import say

TEMPORARY = ".part-"
"""Prefix of unfinished files: short, so that long names stay within the file system's limit."""
PATIENCE = (0.02, 0.05, 0.1, 0.2, 0.3, 0.6, 0.8)
"""Seconds between tries to move a file that another program has open, about two together."""
MAPPED = 1224
"""Windows' ERROR_USER_MAPPED_FILE, for which Python has no class of its own: another program has the file mapped."""
saved_beside: dict[Path, Path] = {}
"""Where this process saved files whose place another program blocked, so that there is one such file, not many."""


class InUse(StorageError):
    """A file can't be replaced because another program has it open."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} can't be replaced: another program has it open, or its permissions forbid it.",
            "Close that program; it may also be an antivirus, an indexer or OneDrive. Earlier saved files are "
            "unchanged.",
        )


def move(source: Path, target: Path, patience: Sequence[float] = PATIENCE) -> None:
    """Moves a file or a folder to where nothing is, or onto a file.

    Args:
        patience: seconds to wait between tries.

    Raises:
        InUse: another program has one of them open, after all tries.
    """
    for seconds in (*patience, None):
        try:
            os.replace(source, target)
            return
        except OSError as error:
            in_use = isinstance(error, PermissionError) or getattr(error, "winerror", None) == MAPPED
            if not in_use or target.is_dir():
                raise
            if seconds is None:
                raise InUse(target) from error
        sleep(seconds)


def saved_at(path: Path) -> Path:
    """Where this process saved `path`: there, unless another program had it open."""
    return saved_beside.get(path, path)


def _move_beside(source: Path, path: Path) -> None:
    """Moves a file next to the one it should replace: where it was saved before, or to an unused name, with a warning.

    Raises:
        InUse: that can't be, either.
    """
    if path in saved_beside:
        with suppress(InUse):
            move(source, saved_beside[path])
            return
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    free = next(name for name in names if not name.exists())
    move(source, free)
    say(f"WARNING: {path} can't be replaced: another program has it open. Saved as {free.name} next to it.")
    saved_beside[path] = free


@contextmanager
def said_if_not_written(path: Path) -> Iterator[None]:
    """Turns a full disk and similar errors into a `StorageError` that names `path`."""
    try:
        yield
    except OSError as error:
        known = not_written(error, path)
        if known is None:
            raise
        raise known from error
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise StorageError(f"{path} can't be written: its text contains half of a character, {half!r}.") from error
    except SafetensorError as error:  # it hides the system's error in its text
        number = re.search(r"os error (\d+)", str(error))
        known = not_written(OSError(int(number[1]), ""), path) if number else None
        if known is None:
            raise
        raise known from error


@contextmanager
def written(path: Path, durable: bool = True, patience: Sequence[float] = PATIENCE) -> Iterator[Path]:
    """Gives a path to write to. If the block succeeds, the file then moves to `path`.

    Args:
        durable: it is on the disk, not only on its way, before it moves: a power cut leaves the old file or the new.
            It is not lost, either, where another program has `path` open: `saved_at` says where it is then.
        patience: see `move`.

    Raises:
        StorageError: the disk is full or read-only; `path` is unchanged.
        InUse: see `move`; not if it is durable.
    """
    with said_if_not_written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY, suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            os.chmod(temporary, 0o644)
            if durable:
                _to_disk(temporary)
            try:
                move(temporary, path, patience)
            except InUse:
                if not durable:
                    raise
                _move_beside(temporary, path)
            else:
                saved_beside.pop(path, None)
        finally:
            remove(temporary)


def write_text(path: Path, text: str, durable: bool = True, patience: Sequence[float] = PATIENCE) -> None:
    """Writes a text file in UTF-8; see `written`."""
    with written(path, durable, patience) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, durable: bool = True
) -> None:
    """Writes a safetensors file; tensors may share memory."""
    with written(path, durable) as temporary:
        save_tensors(temporary, tensors, metadata)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Makes a folder that appears with everything in it. It replaces an existing folder.

    Raises:
        StorageError: see `written`.
    """
    with said_if_not_written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=TEMPORARY))
        try:
            fill(temporary)
            for file in temporary.rglob("*"):
                if file.is_file() and os.access(file, os.W_OK):  # otherwise it is a link to one that is on the disk
                    _to_disk(file)
            remove_folder(path)
            move(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Removes a folder as a whole, never half of its files.

    Raises:
        InUse: another program has one of them open; then all of them stay.
    """
    if path.is_dir():
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=TEMPORARY, ignore_cleanup_errors=True) as away:
            move(path, Path(away) / path.name)


def remove(path: Path) -> None:
    """Removes a file or a folder, if it exists. What another program has open stays."""
    with suppress(OSError, InUse):
        if path.is_dir():
            remove_folder(path)
        else:
            path.unlink()


def _to_disk(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def try_writing(path: Path) -> None:
    """Makes an empty file and its folders, then removes all of them that are new.

    Raises:
        OSError: it can't be made.
    """
    made = [folder for folder in path.parents if not os.path.exists(folder)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
        remove(path)
    except FileExistsError:
        if not path.is_file():  # otherwise it exists, and its folder is writable
            raise
    finally:
        for folder in made:
            with suppress(OSError):  # another run has put something there
                folder.rmdir()
