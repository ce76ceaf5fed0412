"""How other programs steer a run, on every system: files in the folder `control` of its output folder.

The name of a file is the command, what is in it means nothing; so a command is there whole or not at all, however it is
made, and two never get in each other's way. A file goes when it is obeyed. docs/reference/status.md describes it for
anyone who writes such a program.
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
        """Inside, the folder is there; commands that an earlier run was given, and ones that come too late, go."""
        with suppress(OSError):  # a disk that takes no folder: `asked` finds none
            self.folder.mkdir(parents=True, exist_ok=True)
        self.obeyed(COMMANDS)
        self._passed_over = self._names()
        try:
            yield
        finally:
            self.obeyed(COMMANDS)
            with suppress(OSError):  # there is something of another's in it
                self.folder.rmdir()

    def asked(self) -> frozenset[str]:
        """The commands that were given and not obeyed yet; of anything else, it is reported once what there is."""
        there = self._names()
        self._passed_over &= there
        for name in sorted(there - COMMANDS - self._passed_over):
            guess = nearest(Path(name).stem, COMMANDS)
            remedy = f'Did you mean "{guess}"?' if guess else f"Known commands: {', '.join(sorted(COMMANDS))}."
            say(f'WARNING: {self.folder} contains "{name}", which is not a command. {remedy}')
            self._passed_over.add(name)
        return frozenset(there & COMMANDS - self._passed_over)

    def obeyed(self, commands: Iterable[str]) -> None:
        """Removes these; one that can't be removed does not count again until it is gone."""
        for name in commands:
            remove(self.folder / name)
        self._passed_over |= self._names() & frozenset(commands)

    def _names(self) -> set[str]:
        """What is in the folder, but for files that systems and editors hide."""
        try:
            return {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
        except OSError:
            return set()
