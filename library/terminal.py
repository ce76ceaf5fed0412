"""Makes printing safe: a run outlives its terminal, and characters that the terminal can't show."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def say(text: str) -> None:
    """Prints a sentence to standard error without breaking a progress bar."""
    tqdm.write(text, file=sys.stderr)


class Dropping(io.RawIOBase):
    """The bytes of a standard stream; drops them when nothing reads them any more.

    A reader that has exited (`| head -1`), a closed terminal and a full disk behind `> run.txt` all raise an `OSError`
    in one of these writes.

    Args:
        raw: where they go.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw

    @property
    def name(self) -> object:
        """The same as the stream's."""
        return getattr(self._raw, "name", None)

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The same as the stream's."""
        return self._raw.fileno()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._raw.isatty()

    def write(self, content: ReadableBuffer) -> int:
        """Writes what can be written, and treats the rest as written."""
        try:
            written = self._raw.write(content)  # None: a terminal that can't take more right now
        except OSError:
            written = None
        return memoryview(content).nbytes if written is None else written


def outlive_the_terminal() -> None:
    """From now on, printing never ends the process."""
    sys.stdout = _outliving(sys.stdout)
    sys.stderr = _outliving(sys.stderr)


def _outliving(stream: TextIO | None) -> TextIO:
    """The stream, with "?" for unknown characters and without errors; discards everything if there is no stream."""
    if stream is None:  # closed by the parent process, or no console on Windows
        return open(os.devnull, "w", encoding="utf-8", errors="replace")  # stays open as long as the process
    if not isinstance(stream, io.TextIOWrapper):  # not a system stream, such as a notebook's
        return stream
    raw = getattr(stream.buffer, "raw", stream.buffer)  # python -u has no buffer between the two
    if not isinstance(raw, io.RawIOBase):  # in memory
        return stream
    stream.flush()
    return io.TextIOWrapper(
        Dropping(raw) if raw is stream.buffer else io.BufferedWriter(Dropping(raw)),
        encoding=stream.encoding,
        errors="replace",
        newline="\n",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
