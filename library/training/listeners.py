"""Who hears of what happens in a run: the listeners of its main process. In other processes nobody listens.

The run says what happens, once and in every process. A listener has one subject and the hooks that it needs; none of
them changes what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from library.dual_branch_scheduler import Branch
from library.errors import gpu_error, in_words, lacks_memory, memory_error
from library.parts.parts import Attached
from library.preflight.plan import Plan
from library.report.galleries import Gallery
from library.report.page import Section
from library.terminal import say
from library.training.stage import Stage

Given = ParamSpec("Given")
Finished = TypeVar("Finished", contravariant=True)


class Look(Protocol[Finished]):
    """What looks at a run once its student is finished; `what` says in an error what it makes, such as "the audit"."""

    what: str

    def __call__(self, run: Finished, /) -> object:
        """Looks."""


class Listener:
    """What may be told of a run; here, each hook does nothing."""

    def phase_begun(self, name: str) -> None:
        """A kind of work begins, maybe inside another one."""

    def phase_ended(self) -> None:
        """The phase that began last is over, in whatever way."""

    def context_learned(self, seconds: float) -> None:
        """The context vectors are there; learning them took so long, in this run or before."""

    def prepared(self, parts: Attached) -> None:
        """All that training needs is there; the transformer has its adapters."""

    def settled(self, plan: Plan, parts: Attached) -> None:
        """Other settings are in force from now on."""

    def stage_begun(self, stage: Stage) -> None:
        """The stage is about to train."""

    def stage_ended(self) -> None:
        """The stage has stopped training, in whatever way."""

    def student_begins(self, branch: Branch, stage: Stage) -> None:
        """The student has not learned yet; its stage is about to train it for the first time."""

    def step_made(self, row: dict[str, Any], seconds: float) -> None:
        """A step was made or skipped; `row` is its line of the log."""

    def sheet_drawn(self, kind: str, gallery: Gallery, path: Path) -> None:
        """A contact sheet of this kind was drawn into that file."""

    def strengths_drawn(self, gallery: Gallery) -> None:
        """The sheet of the LoRA's strengths was drawn."""

    def saved(self, files: Mapping[Path, str], step: int) -> None:
        """Files of the student were written, or any other that the user may want."""

    def state_saved(self, folder: Path) -> None:
        """The run can be resumed from there."""

    def student_finished(self, parts: Attached, branch: Branch, files: Mapping[Path, str]) -> None:
        """The student has made its last step and was saved; layouts by file."""

    def file_checked(self, path: Path, line: str) -> None:
        """A saved file was read again; the line says where it loads."""

    def section_made(self, section: Section) -> None:
        """Something has more to show in the report."""

    def ended(self, error: BaseException | None) -> None:
        """The run has ended so; None: as it should."""


class Listeners:
    """The listeners of a run, each told in order; by default nobody."""

    def __init__(self) -> None:
        self._members: list[Listener] = []

    def add(self, members: Iterable[Listener]) -> None:
        """These hear of it from now on, after those that are there."""
        self._members += members

    def tell(self, hook: Callable[Concatenate[Any, Given], None], *given: Given.args, **named: Given.kwargs) -> None:
        """Tells all of them what has happened: `tell(Listener.saved, files, step)`."""
        for member in self._members:
            getattr(member, hook.__name__)(*given, **named)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Inside, this kind of work is done.

        Raises:
            TrainingError: out of memory, and nobody inside knew what to do; or the GPU is gone.
        """
        self.tell(Listener.phase_begun, name)
        try:
            yield
        except Exception as error:
            if lacks_memory(error):
                raise memory_error(name) from error
            if broken := gpu_error(name, error):
                raise broken from error
            raise
        finally:
            self.tell(Listener.phase_ended)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Inside, the stage trains."""
        self.tell(Listener.stage_begun, stage)
        try:
            with self.phase(stage.name):
                yield
        finally:
            self.tell(Listener.stage_ended)

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Inside, the run happens."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.tell(Listener.ended, error)

    @contextmanager
    def harmless(self, name: str, failed: str, then: str = "The run continues.") -> Iterator[None]:
        """Inside, a phase that only looks and must never cost the user the run: if it fails, that is reported.

        Args:
            failed: what could not be done.
            then: what becomes of it.
        """
        try:
            with self.phase(name):
                yield
        except Exception as error:
            say(f"WARNING: {failed} ({in_words(error)}). {then}")
