"""Files that are either there whole or not at all, whenever the run is killed or the disk is full."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from library.errors import StorageError, not_written

TEMPORARY = ".part-"
"""Begin of the names of what is not finished: short, so that a long name stays within what a file system allows."""


@contextmanager
def said_if_not_written(path: Path) -> Iterator[None]:
    """Turns a full disk and its like into a `StorageError` that names `path`."""
    try:
        yield
    except OSError as error:
        known = not_written(error, path)
        if known is None:
            raise
        raise known from error
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise StorageError(f"{path} can't be written: its text holds half of a character, {half!r}.") from error
    except SafetensorError as error:  # it hides the system's error in its text
        number = re.search(r"os error (\d+)", str(error))
        known = not_written(OSError(int(number[1]), ""), path) if number else None
        if known is None:
            raise
        raise known from error


@contextmanager
def written(path: Path, durable: bool = True) -> Iterator[Path]:
    """Gives a path to write to; at the end of the block, and only if it ends well, the file moves to `path`.

    Args:
        durable: it is on the disk, not only on its way, before it moves: a power cut leaves the old file or the new.

    Raises:
        StorageError: the disk is full, or may only be read; `path` is as it was.
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
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Writes a text file in UTF-8."""
    with written(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, durable: bool = True
) -> None:
    """Writes a safetensors file."""
    with written(path, durable) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Makes a folder that appears with everything in it. A folder that is already there gives way.

    Raises:
        StorageError: see `written`.
    """
    with said_if_not_written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=TEMPORARY))
        try:
            fill(temporary)
            for file in temporary.rglob("*"):
                if file.is_file() and os.access(file, os.W_OK):  # else it is a link to one that is on the disk
                    _to_disk(file)
            remove_folder(path)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Removes a folder, so that it never stands there with half of its files."""
    if path.is_dir():
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=TEMPORARY, ignore_cleanup_errors=True) as away:
            os.replace(path, Path(away) / path.name)


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _to_disk(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
