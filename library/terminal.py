"""What is printed never ends a run: it outlives its terminal, and letters that the terminal does not know."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def say(text: str) -> None:
    """Prints a sentence to standard error without breaking a bar that is being drawn."""
    tqdm.write(text, file=sys.stderr)


class Dropping(io.RawIOBase):
    """The bytes of a standard stream; those that nobody takes any more are dropped.

    A reader that has gone away (`| head -1`), a terminal that was closed and a full disk behind `> run.txt` all come
    as an `OSError` of one of these writes.

    Args:
        raw: where they go.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw

    @property
    def name(self) -> object:
        """That of the stream."""
        return getattr(self._raw, "name", None)

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """That of the stream."""
        return self._raw.fileno()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._raw.isatty()

    def write(self, content: ReadableBuffer) -> int:
        """Writes what can be written, and takes the rest for written."""
        try:
            written = self._raw.write(content)  # None: a terminal that takes no more for the moment
        except OSError:
            written = None
        return memoryview(content).nbytes if written is None else written


def outlive_the_terminal() -> None:
    """From now on, nothing that is printed ends the process."""
    sys.stdout = _outliving(sys.stdout)
    sys.stderr = _outliving(sys.stderr)


def _outliving(stream: TextIO | None) -> TextIO:
    """The stream, with "?" for a letter that it does not know, and without errors; nowhere if there is none."""
    if stream is None:  # closed by whoever started us, or a program without a console on Windows
        return open(os.devnull, "w", encoding="utf-8", errors="replace")  # as long as the process
    if not isinstance(stream, io.TextIOWrapper):  # not a stream of the system's, such as a notebook's
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
