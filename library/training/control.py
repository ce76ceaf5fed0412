"""How other programs control a run on every system: with files in the folder `control` of its output folder.

A file's name is the command, its contents mean nothing. So a command is never half written, and two never get in each
other's way. The run removes the file when it obeys. docs/reference/status.md describes this for authors of such
programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from library.errors import nearest
from library.files.atomic import remove
from library.terminal import say

STOP, SAMPLE, SAVE = "stop", "sample", "save"
COMMANDS = frozenset({STOP, SAMPLE, SAVE})


class Control:
    """The commands of a run.

    Args:
        folder: of the run's results.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "control"
        self._passed_over: set[str] = set()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, the folder exists; removes commands to an earlier run, and commands that come too late."""
        with suppress(OSError):  # the disk can't have the folder: `asked` finds nothing
            self.folder.mkdir(parents=True, exist_ok=True)
        self.obeyed(COMMANDS)
        self._passed_over = self._names()
        try:
            yield
        finally:
            self.obeyed(COMMANDS)
            with suppress(OSError):  # something else is in it
                self.folder.rmdir()

    def asked(self) -> frozenset[str]:
        """The given commands not obeyed yet; anything else in the folder is reported once, with the valid commands."""
        there = self._names()
        self._passed_over &= there
        for name in sorted(there - COMMANDS - self._passed_over):
            guess = nearest(Path(name).stem, COMMANDS)
            remedy = f'Did you mean "{guess}"?' if guess else f"Known commands: {', '.join(sorted(COMMANDS))}."
            say(f'WARNING: {self.folder} contains "{name}", which is not a command. {remedy}')
            self._passed_over.add(name)
        return frozenset(there & COMMANDS - self._passed_over)

    def obeyed(self, commands: Iterable[str]) -> None:
        """Removes these; one that can't be removed is ignored until it is gone."""
        for name in commands:
            remove(self.folder / name)
        self._passed_over |= self._names() & frozenset(commands)

    def _names(self) -> set[str]:
        """The names in the folder, except files that systems and editors hide."""
        try:
            return {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
        except OSError:
            return set()
